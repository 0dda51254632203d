"""Perplexity of a checkpoint's GGUF files in llama.cpp, one encoding in each row: `perplexity.py CHECKPOINT`.

The text is what the model itself says: 128 tokens, 32 of them the built-in sequence and the rest its greedy continuation,
by our engine with the tanh ACTIVATIONS that llama.cpp computes. So the F32 row is low, and damage shows.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from converter.conversion.convert import convert
from converter.inference.decoder import Decoder
from converter.inference.evaluate import builtin_tokens
from converter.opening import open_checkpoint
from tests.peers.llama import Model

ENCODINGS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


def perplexity(logits: np.ndarray, tokens: list[int]) -> float:
    wide = logits[:-1].astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    said = wide[np.arange(len(tokens) - 1), tokens[1:]] - np.log(np.exp(wide).sum(axis=1))
    return float(np.exp(-said.mean()))


def main() -> None:
    source = open_checkpoint(sys.argv[1])
    engine = Decoder(source, config=source.config, activation="tanh")
    start = builtin_tokens(50257, 2048)[:32]
    tokens = [*start, *(int(token) for token in engine.greedy(start, 96))]
    print("| | perplexity | bytes |\n|---|---|---|")
    print(f"| our engine, tanh ACTIVATIONS, the source | {perplexity(engine.logits(tokens), tokens):.4f} | |")
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ENCODINGS:
            path = Path(folder) / "model.gguf"
            convert(source, path, dtype=encoding, force=True)
            model = Model(path)
            print(
                f"| llama.cpp, {encoding.upper()} | {perplexity(model.logits(tokens), tokens):.4f} | {path.stat().st_size:,} |"
            )
            model.close()


if __name__ == "__main__":
    main()
