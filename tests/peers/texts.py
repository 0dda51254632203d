"""Texts of many scripts, made from a seed: what tokenizers split in different ways."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

WORDS = (
    *("the", "The", "THE", "tokenizer", "unbelievable", "naïve", "Zürich", "straße", "ŁÓDŹ", "façade", "Ångström", "x", "I"),
    *("don't", "we'll", "I'VE", "she's", "they're", "O'Brien", "rock'n'roll", "can’t", "'s", "'Re"),
    *("日本語", "東京タワー", "漢字かな交じり", "你好世界", "我想在apple工作", "한국어", "안녕하세요", "ภาษาไทย", "សាកល្បង", "မြန်မာ"),
    *("Привет", "мир", "ЁЛКА", "Ελληνικά", "ὕδωρ", "עברית", "שָׁלוֹם", "العربية", "مَرْحَبًا", "हिन्दी", "नमस्ते", "বাংলা", "தமிழ்", "ქართული"),
    *("0", "7", "42", "123", "1234", "12345", "1234567", "3.14", "1,000,000", "1e-5", "2026-11-30", "0x1F", "½", "²", "٣٤", "Ⅷ", "१२"),
    *("🙂", "👩‍👩‍👧", "🇨🇭", "👍🏽", "❤️", "🦙🦙", "✅", "e\u0301", "n\u0303o", "ﬁne", "ＡＢＣ", "①", "㎏", "\u212b"),
    *("x=y+1", "foo(bar)[0]", "def f(a, *b):", "#include <x.h>", "a->b", "i++", "!=", "&&", "//", "/*c*/", "{'k': 1}", "C:\\n"),
    *("https://a.b/c?d=e&f=%20", "a@b.ch", "snake_case", "camelCase", "HTMLParser", "--flag", "...", "!!!", "?!", "—", "«»", "„“", "$5", "50%"),
    *("\u00ad", "\u200b", "\ufeff", "\u0000", "\x07", "\u2028", "\ufffd", "\U0001d4d0", "\U00020000", "\U0010fffd"),
)  # fmt: skip
GAPS = (" ", " ", " ", "  ", "   ", "\n", "\n\n", " \n", "\n  ", "\t", "\t\t", "\r\n", "", "", ", ", ". ", "-", "\u00a0", "\u3000", "\u2009")  # fmt: skip


_RANGES = ((0x01, 0x7F), (0xA0, 0x33FF), (0x1F300, 0x1FAFF))
# Programs know different versions of Unicode, so only characters that all of them have.
ASSIGNED = [[chr(code) for code in range(a, b + 1) if unicodedata.category(chr(code)) != "Cn"] for a, b in _RANGES]


def texts(
    count: int,
    seed: int,
    marks: tuple[str, ...] = (),
    *,
    wild: bool = True,
    allowed: Callable[[str], bool] = lambda _: True,
) -> list[str]:
    """So many texts of 0 to 16 words. One word in twenty is one of `marks`.

    With `wild`, one in seven is made of any characters. Words with a character that isn't `allowed` are left out.
    """
    rng = random.Random(seed)
    words, gaps = ([text for text in all_ if all(map(allowed, text))] for all_ in (WORDS, GAPS))
    ranges = [list(filter(allowed, characters)) for characters in ASSIGNED]

    def word() -> str:
        if marks and rng.random() < 0.05:
            return rng.choice(marks)
        if wild and rng.random() < 0.15:
            return "".join(rng.choice(rng.choice(ranges)) for _ in range(rng.randint(1, 5)))
        return rng.choice(words)

    return ["".join(word() + rng.choice(gaps) for _ in range(rng.randint(0, 16))) for _ in range(count)]
