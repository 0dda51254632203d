"""What an engine does: it runs orders, some at a time, tells how they ended, and can give one up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from converter.fleet.work import Order, Result


class Engine(ABC):
    """Runs orders. `slots` says how many at a time."""

    slots: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def start(self, order: Order) -> None:
        """Begin an order; there must be a free slot."""

    @abstractmethod
    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        """The orders that have ended, by number, as soon as there is one; none if these seconds pass first."""

    @abstractmethod
    def give_up(self, number: int) -> None:
        """End an order that takes too long, whatever it does. It is not reported any more."""

    @abstractmethod
    def close(self) -> None:
        """Give up all orders, and end."""
