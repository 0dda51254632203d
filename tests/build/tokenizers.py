"""Small tokenizers, as the files that hold them."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

PAIRS = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<|endoftext|>": 5}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def byte_pair(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of GPT-2's kind: five tokens, two merges and an end of text. `changes` go into the model too."""
    model = {"type": "BPE", "vocab": dict(PAIRS), "merges": [["a", "b"], ["ab", "c"]], "byte_fallback": False}
    document: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [added(5, "<|endoftext|>", special=True)],
        "normalizer": None,
        "pre_tokenizer": BYTES,
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": BYTES,
        "model": model,
    }
    for key, value in changes.items():
        (document if key in document else model)[key] = value
    return document


def added(number: int, content: str, *, special: bool = False, **more: Any) -> dict[str, Any]:
    """An entry of added_tokens."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, **flags, "special": special, **more}


def template(*before: str, behind: tuple[str, ...] = ()) -> dict[str, Any]:
    """A post-processor that puts tokens before and after a text."""
    single = [{"SpecialToken": {"id": name, "type_id": 0}} for name in before]
    single.append({"Sequence": {"id": "A", "type_id": 0}})
    single += [{"SpecialToken": {"id": name, "type_id": 0}} for name in behind]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def characters(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of LLaMA's kind: three marks, 256 bytes, three pieces and two characters."""
    names = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, "▁a", "▁ab", "abb", "a", "b", "▁"]
    marks = [added(number, name, special=True) for number, name in enumerate(names[:3])]
    return (
        byte_pair(
            vocab={name: number for number, name in enumerate(names)},
            merges=["▁ a", "▁a b", "a bb"][:2],
            byte_fallback=True,
            unk_token="<unk>",
            normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, ESCAPE]},
            pre_tokenizer=None,
            post_processor=template("<s>"),
            added_tokens=marks,
        )
        | changes
    )


CHARSMAP = b"\4\0\0\0trie\0"  # the table by which SentencePiece normalizes: the size of a trie, the trie, and texts


def unigram(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of T5's kind."""
    vocab: list[list[Any]] = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.5], ["b", -2.25]]
    return {
        "version": "1.0",
        "added_tokens": [added(n, vocab[n][0], special=True) for n in range(3)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": b64encode(CHARSMAP).decode()},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        "post_processor": template(behind=("</s>",)),
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab},
    } | changes


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "on", "##ly", "[unused0]")


def words(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of BERT's kind."""
    return {
        "version": "1.0",
        "added_tokens": [added(n, WORDS[n], special=True) for n in range(5)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template("[CLS]", behind=("[SEP]",)),
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {word: n for n, word in enumerate(WORDS)}},
    } | changes


# ---- SentencePiece's protobuf ----------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def numbered(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def piece(text: str | bytes, score: float = 0.0, type: int = 1) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return message(1, message(1, data) + varint(2 << 3 | 5) + struct.pack("<f", score) + numbered(3, type))


PIECES = (
    piece("<unk>", 0, 2), piece("<s>", 0, 3), piece("</s>", 0, 3), *(piece(name, 0, 6) for name in BYTE_TOKENS),
    piece("▁a", 0), piece("▁ab", -1), piece("a", -2), piece("b", -3), piece("▁", -4),
)  # fmt: skip


def model(*pieces: bytes, trainer: bytes = numbered(3, 2), normalizer: bytes = numbered(4, 0)) -> bytes:
    """A tokenizer.model: the pieces of PIECES unless others are given, of the kind BPE."""
    return b"".join([*(pieces or PIECES), message(2, trainer), message(3, normalizer)])


def folder(path: Path, **files: Any) -> Path:
    """A folder with files: `tokenizer__json={…}` is tokenizer.json; a value is JSON unless it is a text or bytes."""
    path.mkdir(exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        (path / name.replace("__", ".")).write_bytes(text.encode() if isinstance(text, str) else text)
    return path
