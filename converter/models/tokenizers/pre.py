"""How text is cut into words before byte pairs are merged: llama.cpp's names for it, and what tokenizer.json says.

Sources: llama.cpp's src/llama-vocab.cpp, and the tokenizer.json of the models that the names come from. llama.cpp
rewrites the regular expressions for its own engine; these are the originals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from converter.models.tokenizers.tokenizer import Obstacle

# A step of a pre-tokenizer: its type, and those of its settings that vary. The setting of Split is a regular expression.
Step = tuple[str | bool, ...]

WHOLE: Final = "default"  # llama.cpp's own cut, for a file that names none

_BYTES: Final[Step] = ("ByteLevel", False)  # only spells bytes
_WORDS: Final[Step] = ("ByteLevel", True)  # cuts as GPT-2 does, and spells bytes
_DIGIT: Final[Step] = ("Digits", True)
_ENDS: Final = r"|\s+(?!\S)|\s+"
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LONG_WORDS: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s?"
)
_LETTERS: Final = (  # the cased letters that DeepSeek LLM lists
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-"
    "\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-"
    "\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf"
    "\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-"
    "\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e"
    "\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-"
    "\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-"
    "\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)


def _split(pattern: str) -> Step:
    return ("Split", pattern)


def _modern(letters: str, digits: str, others: str, *, lines: str = r"[\r\n]*", short: str = _SHORT + "|") -> Step:
    """The cut of GPT-4 and of its successors."""
    return _split(rf"{short}[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?{others}+{lines}|\s*[\r\n]+{_ENDS}")


_OTHERS: Final = r"[^\s\p{L}\p{N}]"
_DEEPSEEK_3: Final = (
    _split(r"\p{N}{1,3}"),
    _split("[一-龥぀-ゟ゠-ヿ]+"),
    _split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
        + _ENDS
    ),
)


class Pre(NamedTuple):
    """A row: the steps, and whether a word that is a token is taken whole, without looking at merges."""

    name: str
    steps: tuple[Step, ...]
    ignore_merges: bool = False
    bos: bool = False  # llama.cpp puts the first token before a text unless the file says otherwise
    alike: tuple[str, ...] = ()  # other names for which llama.cpp splits in the same way
    unlike: str = ""  # where llama.cpp's own expression cuts differently from this one


ROWS: Final = (
    Pre(
        "gpt-2",
        (_WORDS,),
        alike=(
            *("mpt", "olmo", "jais", "phi-2", "mellum", "modern-bert", "gigachat", "exaone4", "trillion", "a.x-4.0"),
            *("granite-docling", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code"),
            "roberta-bpe",
        ),
    ),
    Pre(
        "llama-bpe",
        (_modern(r"\p{L}", r"\p{N}{1,3}", _OTHERS), _BYTES),
        ignore_merges=True,
        bos=True,
        alike=(
            *("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
            *("glm4", "glm5"),
        ),
    ),
    Pre("dbrx", (_modern(r"\p{L}", r"\p{N}{1,3}", _OTHERS), _BYTES), alike=("smaug-bpe", "chatglm-bpe")),
    Pre(
        "qwen2",
        (_modern(r"\p{L}", r"\p{N}", _OTHERS), _BYTES),
        alike=("stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2"),
    ),
    Pre("qwen35", (_modern(r"[\p{L}\p{M}]", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]"), _BYTES)),
    Pre("ufakzeka", (_modern(r"\p{L}", r"\p{N}", _OTHERS, short=""), _BYTES)),
    Pre(
        "seed-coder",
        (_modern(r"\p{L}", r"\p{N}{1}", r"[^\s\p{L}\p{N}\r\n]", lines=""), _BYTES),
    ),
    Pre(
        "minicpm5",
        (_split(r"\p{N}{1,3}"), _modern(r"\p{L}", r"\p{N}+", _OTHERS), _BYTES),
        ignore_merges=True,
    ),
    Pre(
        "gpt-4o",
        (
            _split(_LONG_WORDS % (_SHORT, _SHORT) + rf"|\p{{N}}{{1,3}}| ?{_OTHERS}+[\r\n/]*|\s*[\r\n]+" + _ENDS),
            _BYTES,
        ),
        alike=("llama4", "kanana2", "talkie", "minimax-m2"),
        unlike="combining marks, or with capitals beyond ASCII",
    ),
    Pre(
        "tekken",
        (
            _split(
                _LONG_WORDS.replace("%s?", "") + rf"|\p{{N}}| ?{_OTHERS}+[\r\n/]*|\s*[\r\n]+" + _ENDS,
            ),
            _BYTES,
        ),
        ignore_merges=True,
        bos=True,
        unlike="combining marks, or with capitals beyond ASCII",
    ),
    Pre(
        "deepseek-llm",
        (
            _split("[\r\n]"),
            _split(rf"\s?[{_LETTERS}]+"),
            _split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            _split(r"\s+$"),
            _split("[一-龥ࠀ-一가-퟿]+"),
            _DIGIT,
            _BYTES,
        ),
        unlike="blanks or digits beyond ASCII",
    ),
    Pre(
        "deepseek-coder",
        (
            _split("[\r\n]"),
            _split(r"\s?\p{L}+"),
            _split(r"\s?\p{P}+"),
            _split("[一-龥ࠀ-一가-퟿]+"),
            _DIGIT,
            _BYTES,
        ),
        unlike="blanks beyond ASCII",
    ),
    Pre("deepseek-v3", (*_DEEPSEEK_3, _BYTES), alike=("hunyuan-dense", "joyai-llm", "hy_v4")),
    Pre(
        "falcon",
        (("Punctuation", "Contiguous"), _WORDS, ("Digits", False), _split("[0-9][0-9][0-9]")),
    ),
    Pre(
        "starcoder",
        (_DIGIT, _WORDS),
        alike=("refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
    ),
    Pre("bloom", (_split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), _BYTES), alike=("poro-chat", "gpt3-finnish")),
    Pre("viking", (_split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), _DIGIT, _BYTES)),
    Pre(
        WHOLE,
        (
            _split(r"[\p{P}\$\+<=>\^~\|]+"),
            _split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            _split(r"\p{N}+"),
            _split("[0-9][0-9][0-9]"),
            _BYTES,
        ),
    ),
)
_BY_NAME: Final = {name: row for row in ROWS for name in (row.name, *row.alike)}
_BY_STEPS: Final = {(row.steps, row.ignore_merges): row for row in ROWS}


def named(name: str | None) -> Pre | None:
    """The row of one of llama.cpp's names; None for a name that is not known here."""
    return _BY_NAME.get(name or WHOLE)


def alike(one: str | None, other: str | None) -> bool:
    """Whether llama.cpp splits text in the same way for two names."""
    if one == other:
        return True
    first, second = named(one), named(other)
    return first is not None and first is second


def found(pre_tokenizer: Any, *, ignore_merges: bool) -> Pre | None:
    """The row that matches a tokenizer.json; None if llama.cpp has no name for it."""
    steps = _steps(pre_tokenizer)
    return _BY_STEPS.get((steps, ignore_merges)) if steps is not None else None


def obstacle(pre_tokenizer: Any, *, ignore_merges: bool) -> Obstacle | None:
    """The one setting that keeps a tokenizer.json from matching a row; None if there is none."""
    if (row := found(pre_tokenizer, ignore_merges=not ignore_merges)) is not None:
        said = "takes a word that is a token as it is" if ignore_merges else "merges a word that is a token, too"
        return Obstacle(f"{said} (`ignore_merges` is {str(ignore_merges).lower()})", row.name)
    plain = _without_space(pre_tokenizer)
    row = found(plain, ignore_merges=ignore_merges) if plain != pre_tokenizer else None
    return Obstacle("puts a space before a text (`add_prefix_space` is true)", row.name) if row is not None else None


def _without_space(step: Any, depth: int = 8) -> Any:
    """A pre-tokenizer that puts no space before a text, and is otherwise the same."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*inner]} if depth:
            return {**step, "pretokenizers": [_without_space(one, depth - 1) for one in inner]}
        case {"type": "ByteLevel"}:
            return {**step, "add_prefix_space": False}
    return step


def written(row: Pre) -> dict[str, Any]:
    """What a tokenizer.json says for a row."""
    steps = [_document(step) for step in row.steps]
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _document(step: Step) -> dict[str, Any]:
    match step:
        case ("ByteLevel", words):
            return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}
        case ("Digits", individual):
            return {"type": "Digits", "individual_digits": individual}
        case ("Punctuation", behavior):
            return {"type": "Punctuation", "behavior": behavior}
        case (_, pattern):
            return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    raise AssertionError(step)


def _steps(document: Any) -> tuple[Step, ...] | None:
    """The steps; None for any that no row has."""
    steps: list[Step] = []
    waiting = [document]
    while waiting:
        step = waiting.pop()
        match step:
            case {"type": "Sequence", "pretokenizers": [*inner]}:
                waiting += reversed(inner)
            case {"type": "ByteLevel", **more} if not more.get("add_prefix_space", True):
                steps.append(("ByteLevel", bool(more.get("use_regex", True))))
            case {"type": "Digits", **more}:
                steps.append(("Digits", bool(more.get("individual_digits", False))))
            case {"type": "Punctuation", **more}:
                steps.append(("Punctuation", str(more.get("behavior", "Isolated"))))
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, **more} if _isolates(pattern, more):
                steps.append(("Split", pattern))
            case _:
                return None
    return tuple(steps)


def _isolates(pattern: str, more: Mapping[Any, Any]) -> bool:
    """Whether a split keeps both the matches and the text between them as pieces."""
    behavior, invert = more.get("behavior"), more.get("invert", False)
    # A pattern that matches all of a text leaves nothing between the matches, so removing what lies there changes nothing.
    return (behavior, invert) == ("Isolated", False) or ((behavior, invert) == ("Removed", True) and _covers(pattern))


def _covers(pattern: str) -> bool:
    return pattern.endswith(_ENDS)
