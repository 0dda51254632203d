"""Measured programs for which no command exists: `programs.py NAME ARGUMENT…`. Each is as short as possible.

Those whose work takes less time than their imports print how many seconds it took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

TOKENS = [(7919 * position) % 50257 for position in range(512)]


def read_whole(*paths: str) -> None:
    """Read files from start to end, 1 MiB at a time."""
    buffer = bytearray(1 << 20)
    for path in paths:
        with Path(path).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def torch_load(*paths: str) -> None:
    """List the tensors, as cheaply as torch can; of a folder, those of all its shards."""
    import torch

    for path in paths:
        for file in sorted(Path(path).glob("*.bin")) if Path(path).is_dir() else [path]:
            print(len(torch.load(file, weights_only=True, mmap=True)))


def torch_save(source: str, target: str) -> None:
    import torch

    torch.save(torch.load(source, weights_only=True), target)


def torch_many(count: str, target: str) -> None:
    import torch

    torch.save({f"layers.{number}.weight": torch.zeros(4) for number in range(int(count))}, target)


def torch_safetensors(source: str, target: str, mmap: str) -> None:
    import torch
    from safetensors.torch import save_file

    state = torch.load(source, weights_only=True, mmap=mmap == "mmap")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target, {"format": "pt"})


def hub_convert(source: str, target: str) -> None:
    """Do what `convert_file` of safetensors' convert.py does, which itself needs a version of transformers before 5."""
    import torch
    from safetensors.torch import load_file, save_file

    state = torch.load(source, map_location="cpu", weights_only=True)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(tensor.data_ptr(), name)
    state = {name: state[name].contiguous() for name in state if first[state[name].data_ptr()] == name}
    save_file(state, target, metadata={"format": "pt"})
    written = load_file(target)
    assert all(torch.equal(tensor, written[name]) for name, tensor in state.items())


def transformers_save(source: str, target: str) -> None:
    import transformers

    transformers.GPT2LMHeadModel.from_pretrained(source).save_pretrained(target)


def torch_compare(source: str, other: str) -> None:
    import torch
    from safetensors.torch import load_file

    state, written = torch.load(source, weights_only=True, mmap=True), load_file(other)
    assert all(torch.equal(tensor, state[name]) for name, tensor in written.items())


def llama_convert(llama_cpp: str, source: str, target: str, dtype: str) -> None:
    """Run convert_hf_to_gguf.py, told to leave out the masks, which it can't map, and to do without a tokenizer."""
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    import convert_hf_to_gguf
    from conversion.gpt2 import GPT2Model

    known = GPT2Model.modify_tensors
    GPT2Model.modify_tensors = lambda self, data, name, layer: (
        () if name.endswith((".attn.bias", ".attn.masked_bias")) else known(self, data, name, layer)
    )
    GPT2Model.set_vocab = GPT2Model._set_vocab_none
    sys.argv = ["convert_hf_to_gguf.py", source, "--outfile", target, "--outtype", dtype]
    convert_hf_to_gguf.main()


def our_forward(source: str, passes: str) -> None:
    from converter.inference.decoder import Decoder
    from converter.opening import open_checkpoint

    model = Decoder(open_checkpoint(source))
    print(_last_time(lambda: model.logits(TOKENS), int(passes)))


def transformers_forward(source: str, passes: str) -> None:
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32).eval()
    tokens = torch.tensor([TOKENS])
    with torch.inference_mode():
        print(_last_time(lambda: model(tokens, use_cache=False).logits, int(passes)))


def our_catalogue(path: str) -> None:
    """From the file's first byte to checked tensors."""
    from converter.opening import open_checkpoint

    print(_seconds(lambda: open_checkpoint(path)))


def our_machine(pickle_path: str) -> None:
    """Only the pickle; its storages are not checked."""
    from converter.formats.torch import reader as torch_zip
    from converter.pickles.closed_table import TABLE
    from converter.pickles.loop import run

    data = Path(pickle_path).read_bytes()
    print(_seconds(lambda: run(data, TABLE, torch_zip._promised)))


def c_unpickler(pickle_path: str) -> None:
    """The same pickle by CPython's unpickler in C, which makes tuples of tensors and checks nothing."""
    import collections
    import io
    import pickle

    known = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: arguments,
        ("torch", "FloatStorage"): "F32",
    }

    class Restricted(pickle.Unpickler):
        def find_class(self, module, name):
            return known[module, name]

        def persistent_load(self, identifier):
            return identifier

    data = Path(pickle_path).read_bytes()
    print(_seconds(lambda: Restricted(io.BytesIO(data)).load()))


def zip_directory(path: str) -> None:
    import zipfile

    print(_seconds(lambda: zipfile.ZipFile(path)))


def genops(pickle_path: str) -> None:
    import pickletools

    data = Path(pickle_path).read_bytes()
    print(_seconds(lambda: [None for _ in pickletools.genops(data)]))


def fickling_load(pickle_path: str) -> None:
    from fickling.fickle import Pickled

    data = Path(pickle_path).read_bytes()
    print(_seconds(lambda: Pickled.load(data)))


def fickling_check(pickle_path: str) -> None:
    from fickling.analysis import check_safety
    from fickling.fickle import Pickled

    data = Path(pickle_path).read_bytes()
    print(_seconds(lambda: check_safety(Pickled.load(data))))


def _seconds(work) -> float:
    start = time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - start
    del kept
    return seconds


def _last_time(work, times: int) -> float:
    return [_seconds(work) for _ in range(times)][-1]


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
