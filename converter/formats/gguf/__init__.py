"""GGUF, versions 2 and 3."""

from typing import Final

from converter.formats.format import Format, lazily

GGUF: Final = Format(
    name="gguf",
    title="GGUF",
    matches=lambda head: head.startswith(b"GGUF"),
    read=lazily("converter.formats.gguf.reader", "read"),
    endings=(".gguf",),
    canonical=lazily("converter.formats.gguf.reader", "canonical"),
    plan=lazily("converter.formats.gguf.writer", "plan"),
    dtypes=("keep", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"),
    self_contained=True,
    tokenizer=lazily("converter.formats.gguf.reader", "tokenizer"),
    says_activation=lazily("converter.formats.gguf.reader", "says_activation"),
    engines=("numpy", "llama.cpp"),
    tanh=True,
)
