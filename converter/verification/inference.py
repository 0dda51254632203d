"""Compares what an output computes with what the source computes. The source is computed once for all outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.dtypes import BF16, F16, F32, F64
from converter.errors import ModelError, UnsupportedError
from converter.inference import engines, evaluate
from converter.inference.engine import Engine, compute
from converter.inference.work import pass_work
from converter.models.tokenizers.folder import FILES, document, is_beside
from converter.models.tokenizers.json_file import NAME
from converter.opening import folder_beside
from converter.steps import follower
from converter.tensors.scaled import rounded
from converter.words import option

if TYPE_CHECKING:
    from converter.models.architecture import Activation
    from converter.tensors.catalogue import Catalogue
    from converter.verification.verify import Options


_HALVES: Final = (F16, BF16)


class Inference:
    """The source's side of the comparison."""

    def __init__(self, source: Catalogue, options: Options, outputs: int) -> None:
        self._source, self._options = source, options
        self._work = pass_work(source)
        self._model = compute(source)
        vocab_size, n_positions = self._model.vocab_size, self._model.n_positions
        if options.tokens is not None:
            self._tokens = evaluate.load_tokens(options.tokens, vocab_size, n_positions)
        elif options.prompt is not None:
            where = str(source.location)
            self._tokens = evaluate.encode(options.prompt, lambda: _document(source), where, vocab_size, n_positions)
        else:
            self._tokens = evaluate.builtin_tokens(vocab_size, n_positions)
        self._references: dict[Any, evaluate.Reference] = {}
        # The source takes the tokens one by one and then all at once; every output takes them all at once.
        self._reference_passes = evaluate.steps_of(self._model, self._tokens) + 1
        follower().planned((self._reference_passes + outputs) * self._work)
        self._effect: dict[str, Any] | None = None

    def compare(self, location: str, output: Catalogue, *, lone: bool) -> tuple[Mapping[str, Any], list[str]]:
        """Return the report about an output, and a sentence for each thing that is wrong with it."""
        engine = self._engine(location, output, lone=lone)
        comparison = evaluate.compare(self._reference(engine.activation), engine)
        if engine.name != self._model.name:  # other engines do not report how far they are
            follower().worked(self._work)
        limit = self._options.threshold or evaluate.threshold(self._source, output, engine.name)
        shortcomings = evaluate.shortcomings(comparison, limit)
        if shortcomings and self._options.threshold is None:
            limit = self._widened(limit, formats.of(output).computed(output), engine.activation)
            shortcomings = evaluate.shortcomings(comparison, limit)
        said = comparison.to_json() | {
            "tokens": len(self._tokens),
            "threshold": asdict(limit),
            "allowed": None if comparison.spread is None else asdict(limit.allowed(comparison.spread)),
            "shortcomings": shortcomings,
            "activation_effect": self._activation_effect() if formats.of(output).tanh else None,
        }
        return said, shortcomings

    def _widened(self, limit: evaluate.Threshold, output: Catalogue, activation: Activation) -> evaluate.Threshold:
        """The limit, or what rounding does to this very model if that is more: a steep softmax multiplies roundings.

        It is measured on the source, rounded here to the dtypes that the output has.
        """
        bare = self._model.family.bare
        found = {bare(name): tensor.dtype for name, tensor in output.items() if tensor.storage.encoding is None}
        tensors = {
            name: rounded(tensor, dtype)
            if (dtype := found.get(bare(name), tensor.dtype)) in _HALVES and tensor.dtype in (F32, F64)
            else tensor
            for name, tensor in self._source.items()
        }
        if all(tensor is self._source[name] for name, tensor in tensors.items()):
            return limit
        follower().planned(self._work)
        model = compute(replace(self._source, tensors=tensors), activation=activation)
        return evaluate.widened(limit, evaluate.compare(self._reference(activation), model))

    def _engine(self, location: str, output: Catalogue, *, lone: bool) -> Engine:
        """The chosen engine, over an output. It computes the source's activation, whatever config.json says."""
        format = formats.of(output)
        output = format.computed(output)
        # The config.json beside a lone file need not belong to it, so the source's is used.
        own = format.self_contained or not lone
        config = output.config if own and output.config is not None else self._source.config
        if self._options.engine not in format.engines:
            read = " and ".join(other.title for other in formats.FORMATS if self._options.engine in other.engines)
            raise UnsupportedError(
                f"{self._options.engine} reads {read}, and `{location}` is {format.title}: use another engine"
            )
        if self._options.engine == "transformers":
            return engines.Transformers(location, config or {}, self._model.activation, self._model.family)
        if self._options.engine == "llama.cpp":
            if format.tokenizer(output) is None:
                raise UnsupportedError(
                    f"`{location}` has no tokenizer, without which llama.cpp runs no model: use the engine numpy, or convert "
                    f"with {option('tokenizer')}"
                )
            # If a model is in several files, llama.cpp is given the first.
            path = output.origin.path_of(output.origin.files[0].name)
            return engines.LlamaCpp(path, self._model.vocab_size, self._model.activation)
        try:
            return compute(output, config=config, activation=self._model.activation)
        except UnsupportedError as error:  # it is a finding about the output, because the source could be computed
            raise ModelError(str(error)) from error

    def _reference(self, activation: Activation) -> evaluate.Reference:
        if activation not in self._references:
            model = self._model
            if activation != model.activation:
                follower().planned(self._reference_passes * self._work)
                model = compute(self._source, activation=activation)
            self._references[activation] = evaluate.reference(model, self._tokens)
        return self._references[activation]

    def _activation_effect(self) -> dict[str, Any] | None:
        """The effect of the tanh form, which llama.cpp and the Java client compute, on a model trained with erf.

        None if the model was not trained with erf. The difference is not an error of any output.
        """
        if self._model.activation != "erf":
            return None
        if self._effect is None:
            follower().planned(self._work)
            tanh = compute(self._source, activation="tanh")
            self._effect = evaluate.compare(self._reference("erf"), tanh).to_json()
        return self._effect


def _document(source: Catalogue) -> str:
    """The tokenizer inside the source or beside it, as a tokenizer.json."""
    if inside := formats.of(source).tokenizer_files(source):
        return inside[NAME].decode()
    folder = folder_beside(source)
    if folder is None or not is_beside(folder):
        raise ModelError(f"a prompt needs a tokenizer, and `{source.location}` has none: {FILES}; or give token ids")
    return document(folder)
