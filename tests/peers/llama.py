"""llama.cpp by its C interface, which the binding's library exports: logits of all positions, and the tokenizer.

The parameters' structs change from version to version. We only get them as defaults and pass them on, so it is enough
to reserve more bytes than they need; only the first four numbers of the context's are set, and the types of keys and
values, which are found by their defaults. (x86-64 and arm64 pass structs of this size so
that spare bytes do no harm.)
"""

import ctypes
from pathlib import Path

import numpy as np
import xllamacpp.xllamacpp

_Opaque = ctypes.c_uint8 * 1024


class _Parameters(ctypes.Structure):
    _fields_ = [("n_ctx", ctypes.c_uint32), ("n_batch", ctypes.c_uint32), ("n_ubatch", ctypes.c_uint32),
                ("n_seq_max", ctypes.c_uint32), ("rest", _Opaque)]  # fmt: skip


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_LIBRARY = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_lines: list[str] = []
_log = _Log(lambda _level, text, _data: _lines.append(text.decode(errors="replace")))


def _declare(name, result, *arguments):
    function = getattr(_LIBRARY, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


_pointer = ctypes.c_void_p
_model_defaults = _declare("llama_model_default_params", _Parameters)
_context_defaults = _declare("llama_context_default_params", _Parameters)
_load = _declare("llama_model_load_from_file", _pointer, ctypes.c_char_p, _Parameters)
_context = _declare("llama_init_from_model", _pointer, _pointer, _Parameters)
_vocabulary = _declare("llama_model_get_vocab", _pointer, _pointer)
_n_tokens = _declare("llama_vocab_n_tokens", ctypes.c_int32, _pointer)
_ends = _declare("llama_vocab_is_eog", ctypes.c_bool, _pointer, ctypes.c_int32)
_batch = _declare("llama_batch_init", _Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)
_batch_free = _declare("llama_batch_free", None, _Batch)
_decode = _declare("llama_decode", ctypes.c_int32, _pointer, _Batch)
_logits = _declare("llama_get_logits", ctypes.POINTER(ctypes.c_float), _pointer)
_free = _declare("llama_free", None, _pointer)
_model_free = _declare("llama_model_free", None, _pointer)
_tokenize = _declare(
    "llama_tokenize", ctypes.c_int32, _pointer, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32),
    ctypes.c_int32, ctypes.c_bool, ctypes.c_bool,
)  # fmt: skip
_declare("llama_log_set", None, _Log, _pointer)(_log, None)
_declare("llama_backend_init", None)()


def _keep_in_f32(parameters: _Parameters) -> None:
    """Turn off flash attention, which computes in halves, and keep keys and values in F32.

    Their types are two numbers that are 1 (F16), after two null pointers. Thirteen numbers before the first is that for flash
    attention, behind three others for which -1 leaves the choice to the library, as it does for this one.
    """
    words = np.frombuffer(parameters.rest, np.int32)
    [place] = [at for at in range(4, 40) if list(words[at - 4 : at + 2]) == [0, 0, 0, 0, 1, 1]]
    assert list(words[place - 16 : place - 12]) == [-1, -1, -1, -1]
    words[place : place + 2] = words[place - 13] = 0


class Model:
    """A GGUF file as llama.cpp loads it. Raises ValueError with the end of its log if it can't load it."""

    def __init__(self, path: Path) -> None:
        _lines.clear()
        self._model = _load(str(path).encode(), _model_defaults())
        if not self._model:
            raise ValueError("".join(_lines)[-400:])
        self._vocabulary = _vocabulary(self._model)
        self.size = _n_tokens(self._vocabulary)

    def close(self) -> None:
        _model_free(self._model)

    def ends(self) -> list[int]:
        """Give the tokens at which a text ends."""
        return [number for number in range(self.size) if _ends(self._vocabulary, number)]

    def logits(self, tokens: list[int], *, exact: bool = False) -> np.ndarray:
        """Give [tokens, vocabulary]. With `exact`, keys and values are kept in F32 instead of F16."""
        parameters = _context_defaults()
        if exact:
            _keep_in_f32(parameters)
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(256, len(tokens))
        context = _context(self._model, parameters)
        batch = _batch(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, index, 1
            batch.seq_id[index][0], batch.logits[index] = 0, 1
        assert _decode(context, batch) == 0, "".join(_lines)[-400:]
        values = np.ctypeslib.as_array(_logits(context), (len(tokens), self.size)).copy()
        _batch_free(batch)
        _free(context)
        return values

    def tokens(self, text: str, *, special: bool = False, around: bool = False) -> list[int]:
        """Split a text: `special` finds control tokens in it, and `around` adds those that the file puts around a text."""
        data = text.encode()
        found = (ctypes.c_int32 * (len(data) + 8))()
        count = _tokenize(self._vocabulary, data, len(data), found, len(found), around, special)
        return list(found[:count])
