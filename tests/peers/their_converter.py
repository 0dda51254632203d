"""Runs llama.cpp's convert_hf_to_gguf.py for several models in one process: python -m tests.peers.their_converter LLAMA_CPP.

Reads a JSON list of [folder, file to write] from standard input, and prints for each null or the error that it ended with.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

UNLISTED = (
    "not listed"  # instead of a name for the cut into words, where its table has none for a tokenizer made at random
)


def main(llama_cpp: str) -> None:
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    import convert_hf_to_gguf
    from conversion import base

    listed, load = base.TextModel.get_vocab_base_pre, base.AutoConfig.from_pretrained

    def name_of(self: Any, tokenizer: Any) -> str:
        try:
            return str(listed(self, tokenizer))
        except NotImplementedError:
            return UNLISTED

    def config_of(folder: Any, *arguments: Any, **options: Any) -> Any:
        # It asks for GPT-NeoX's `rotary_pct`, which transformers 5 renames as it reads. What transformers does not
        # know, it takes from config.json as it stands.
        if json.loads((Path(folder) / "config.json").read_bytes())["model_type"] == "gpt_neox":
            raise ValueError("as it stands")
        return load(folder, *arguments, **options)

    base.TextModel.get_vocab_base_pre, base.AutoConfig.from_pretrained = name_of, config_of
    errors: list[str | None] = []
    for source, target in json.load(sys.stdin):
        sys.argv = ["convert_hf_to_gguf.py", source, "--outfile", target, "--outtype", "f32"]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                convert_hf_to_gguf.main()
        except (Exception, SystemExit) as error:
            errors.append(repr(error))
        else:
            errors.append(None)
    print(json.dumps(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
