"""One record for each format, which says everything that the format can do. Functions are imported when they are called.

A reader never asks its record. Records name the readers, and the modules of a format import only what lies beside them.
"""

from typing import Final

from converter.formats import marks
from converter.formats.format import Format, lazily
from converter.io.tar import is_header

# The block types of GGUF that are written.
_BLOCKS: Final = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
# Types that only the extra llama-cpp makes.
_GRIDS: Final = ("iq4_nl", "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")
_TORCH_ENDINGS: Final = (".bin", ".pt", ".pth", ".ckpt")

NPZ: Final = Format(
    name=marks.NPZ,
    title="numpy archive (npz)",
    matches=marks.first_is_array,
    read=lazily("converter.formats.npz.reader", "read"),
    endings=(".npz",),
    weights="npz",
    plan=lazily("converter.formats.npz.writer", "plan"),
    dtypes=("keep", "f32", "f16", "bf16"),
    contents="records",
)
TORCH_ZIP: Final = Format(
    name=marks.TORCH_ZIP,
    title="PyTorch checkpoint (zip)",
    matches=lambda head: head.startswith(b"PK\3\4"),  # a zip's local header: PyTorch itself looks no further
    read=lazily("converter.formats.torch.reader", "read"),
    endings=_TORCH_ENDINGS,
    weights="bin",
    engines=("numpy", "transformers"),
    pickled=True,
    contents="records",
)
TORCH_LEGACY: Final = Format(
    name=marks.TORCH_LEGACY,
    title="PyTorch checkpoint (legacy stream)",
    matches=lambda head: head.startswith(marks.LEGACY_MAGICS),
    read=lazily("converter.formats.torch.legacy", "read"),
    endings=_TORCH_ENDINGS,
    weights="bin",
    engines=("numpy", "transformers"),
    pickled=True,
    contents="pickles",
)
TORCH_TAR: Final = Format(
    name=marks.TORCH_TAR,
    title="PyTorch checkpoint (tar)",
    matches=is_header,
    read=lazily("converter.formats.torch.tar", "read"),
    endings=_TORCH_ENDINGS,
    weights="bin",
    pickled=True,
    contents="members",
)
GGUF: Final = Format(
    name=marks.GGUF,
    title="GGUF",
    matches=lambda head: head.startswith(marks.GGUF_MAGIC),
    read=lazily("converter.formats.gguf.reader", "read"),
    endings=(".gguf",),
    weights="gguf",
    canonical=lazily("converter.formats.gguf.names", "canonical"),
    portion=lazily("converter.formats.gguf.metadata", "portion"),
    keys=lazily("converter.formats.gguf.facts", "keys"),
    words=lazily("converter.formats.gguf.facts", "words"),
    cache=lazily("converter.formats.gguf.facts", "cache"),
    remarks=lazily("converter.formats.gguf.facts", "remarks"),
    hyperparameters=lazily("converter.formats.gguf.hyperparameters", "hyperparameters"),
    in_config=lazily("converter.formats.gguf.hyperparameters", "in_config"),
    joined=lazily("converter.formats.gguf.metadata", "joined"),
    plan=lazily("converter.formats.gguf.writer", "plan"),
    values=True,
    ties=True,
    dtypes=("keep", "f32", "f16", "bf16", *_BLOCKS, *_GRIDS),
    quantiser=lazily("converter.formats.gguf.quantising", "quantiser"),
    mixtures=("q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s"),
    self_contained=True,
    tokenizer=lazily("converter.formats.gguf.tokenizer", "inside"),
    tokenizer_files=lazily("converter.formats.gguf.tokenizer", "as_files"),
    generation_files=lazily("converter.formats.gguf.generation", "as_files"),
    generation=lazily("converter.formats.gguf.generation", "comparable"),
    says_activation=lazily("converter.formats.gguf.names", "says_activation"),
    engines=("numpy", "llama.cpp"),
    tanh=True,
)
SAFETENSORS: Final = Format(
    name=marks.SAFETENSORS,
    title="safetensors",
    matches=marks.has_header,
    read=lazily("converter.formats.safetensors.reader", "read"),
    endings=(".safetensors",),
    weights="safetensors",
    remarks=lazily("converter.formats.safetensors.reader", "remarks"),
    joined=lazily("converter.formats.safetensors.reader", "joined"),
    plan=lazily("converter.formats.safetensors.writer", "plan"),
    values=True,
    ties=True,
    dtypes=("keep", "f32", "f16", "bf16"),
    shard=50_000_000_000,  # what transformers cuts at
    check=lazily("converter.formats.safetensors.check", "check"),
    disagreements=lazily("converter.formats.safetensors.witness", "disagreements"),
    engines=("numpy", "transformers"),
)
PARAMETERS: Final = Format(
    name=marks.PARAMETERS,
    title="parameters folder",
    marker=marks.MANIFEST,
    marks=lambda head: marks.BEGINS_MANIFEST.match(head) is not None,
    read_folder=lazily("converter.formats.parameters.folder", "read_folder"),
    read_entries=lazily("converter.formats.parameters.folder", "read_entries"),
    plan=lazily("converter.formats.parameters.folder", "plan"),
    dtypes=("keep",),
    whole_folder=True,
    companions=False,
    check=lazily("converter.formats.parameters.check", "check"),
    computed=lazily("converter.formats.parameters.client", "computed"),
    tanh=True,
)
# It has no endings: in a folder, .npy files lie beside weights for many reasons.
NPY: Final = Format(
    name=marks.NPY,
    title="numpy array (npy)",
    matches=lambda head: head.startswith(marks.NPY_MAGIC),
    read=lazily("converter.formats.npz.reader", "read_array"),
    contents="array",
)

# If a file matches two formats, the first one counts.
FORMATS: Final = (NPZ, TORCH_ZIP, TORCH_LEGACY, GGUF, SAFETENSORS, PARAMETERS, NPY, TORCH_TAR)
WRITABLE: Final = tuple(format for format in (SAFETENSORS, GGUF, PARAMETERS, NPZ) if format.plan is not None)
