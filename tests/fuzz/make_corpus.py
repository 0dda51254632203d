"""Writes the part of `corpus/` that our own builders make: `python -m tests.fuzz.make_corpus`.

What the fuzzer found lies beside it, under names that start with `found-`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.build import seeds
from tests.fuzz.parsers import model, parameters_folder

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    _, folder, properties = model()
    config = json.loads((folder / "manifest.json").read_bytes())["config"]
    manifest = (parameters_folder() / "manifest.json").read_bytes()
    bare = json.loads(manifest) | {"config": config, "tied": []}
    bare["tensors"] = [entry | {"byte_order": "big"} for entry in bare["tensors"]]
    manifests = {"two": manifest, "big-endian": json.dumps(bare).encode()}
    written = {
        "zip": seeds.torch_zips(),
        "machine": seeds.pickles(),
        "legacy": seeds.legacies(),
        "safetensors": seeds.safetensors(),
        "gguf": seeds.ggufs(),
        "index": seeds.indexes(),
        "manifest": manifests,
        "properties": {"alone": b"\n" + properties, "config": json.dumps(config).encode() + b"\n" + properties},
    }
    for parser, files in written.items():
        (CORPUS / parser).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / parser).glob("seed-*"):
            old.unlink()
        for name, data in files.items():
            (CORPUS / parser / f"seed-{re.sub(r'[^a-z0-9.]+', '-', name)}").write_bytes(data)


if __name__ == "__main__":
    main()
