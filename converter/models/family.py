"""What this package can do with a family of models. Each ability refuses until a module of the family provides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NoReturn

from converter.errors import ConverterError, ModelError, UnsupportedError
from converter.models.architecture import Architecture, Metadatum

# Where the output head is: not stored, the same view as the embedding, or a tensor of its own.
TiedHead = Literal["absent", "tied", "untied"]

_U32: Final = 1 << 32


class Family(Architecture):
    """An architecture that is recognised. Everything that needs only names and shapes works for every family.

    `sizes` are those of a recognition, and `settings` are its config.json or that of the declared model.
    """

    __slots__ = ()

    def gguf_notes(self, settings: Mapping[str, Any]) -> list[str]:
        """Sentences about what llama.cpp computes differently. Raises UnsupportedError if that would be wrong."""
        self._refuse(UnsupportedError, "GGUF of it is not written here: choose safetensors")

    def gguf_metadata(self, sizes: Mapping[str, int], settings: Mapping[str, Any]) -> Iterator[tuple[Metadatum, float]]:
        """Yield the GGUF keys of the architecture with their values. Raises ModelError for a value that is not positive."""
        for datum in self.metadata:
            value = sizes.get(datum.value, self.setting(datum.value, settings))
            kinds = (int,) if datum.type == "u32" else (int, float)
            if type(value) not in kinds or not 0 < value < _U32:
                raise ModelError(f"`{datum.value}` is {value!r:.80}: a positive number was expected for `{datum.key}`")
            yield datum, value

    def client_properties(
        self, sizes: Mapping[str, int], settings: Mapping[str, Any], head: TiedHead
    ) -> list[tuple[str, object]]:
        """The lines of model.properties that tell the Java client what to compute. ModelError if the client can't."""
        self._refuse(ModelError, "the Java client does not know it")

    def engine(self) -> str:
        """The name of the engine that computes it, in `converter.inference.engine`. Raises ModelError if none does."""
        self._refuse(ModelError, "what it computes can't be compared here: compare only its tensors")

    def _refuse(self, error: type[ConverterError], what: str) -> NoReturn:
        raise error(f"{self.title} is recognised, but {what}")
