"""A prune ratio: one number for all entries of an adapter, or one for each adapter that was merged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Discriminator, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema, core_schema

from grasp_lora.errors import GraspError
from grasp_lora.settings import Ratio

__all__ = [
    "MOST",
    "Numbers",
    "PerAdapter",
    "PruneRatio",
    "Ratios",
    "Several",
    "as_ratio",
    "each",
    "in_order",
    "listed",
    "per_adapter",
    "prunes",
    "shown_ratio",
    "spread",
    "unpruned",
]


MOST = 0.99
"""The ratio that a search gives one of several adapters where all would be pruned whole."""


class Several(tuple[float, ...]):
    """One number for each of the adapters that a merge is of, in their order, which is that of the merge.

    Where a number is formatted it can stand, too: `f"{Several((0, 1)):.2f}"` is "0.00, 1.00".
    """

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return ", ".join(format(p, spec) for p in self)

    def __str__(self) -> str:
        return ", ".join(map(str, self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls._checked, handler(tuple[float, ...]))

    @classmethod
    def _checked(cls, numbers: Sequence[float]) -> "Several":
        return cls(numbers)


class PerAdapter(Several):
    """One ratio for each of the adapters; not all are 1."""

    __slots__ = ()

    @classmethod
    def _checked(cls, numbers: Sequence[float]) -> "PerAdapter":
        try:
            return per_adapter(numbers)
        except GraspError as error:
            raise ValueError(str(error)) from None


Numbers = float | Several
PruneRatio = float | PerAdapter
T = TypeVar("T")


def per_adapter(ratios: Iterable[float]) -> PerAdapter:
    """Ratios that leave something.

    Raises:
        GraspError: One is no ratio, or all are 1.
    """
    found = PerAdapter(float(p) for p in ratios)
    if not found or not all(0.0 <= p <= 1.0 for p in found):
        raise GraspError(f"prune ratios are between 0 and 1, got {str(found) or 'none'}")
    if all(p == 1.0 for p in found):
        raise GraspError(f"the ratios {found:g} prune every adapter, and leave nothing")
    return found


def as_ratio(value: Any) -> PruneRatio:
    """A number, a sequence of them, or either as text, as keys of JSON are.

    Raises:
        GraspError, ValueError: It is none.
    """
    if isinstance(value, str):
        numbers = [float(part) for part in value.split(",")]
        return numbers[0] if len(numbers) == 1 else per_adapter(numbers)
    return per_adapter(value) if isinstance(value, tuple | list) else float(value)


def each(value: float | Sequence[float]) -> tuple[float, ...]:
    """The numbers in it: itself where it is one."""
    return (value,) if isinstance(value, int | float) else tuple(value)


def unpruned(like: PruneRatio) -> PruneRatio:
    """No pruning, of as many ratios."""
    return PerAdapter([0.0] * len(like)) if isinstance(like, PerAdapter) else 0.0


def spread(p: PruneRatio, adapters: int) -> PerAdapter:
    """One for each of so many adapters."""
    return p if isinstance(p, PerAdapter) else PerAdapter([p] * adapters)


def prunes(p: PruneRatio) -> bool:
    """Whether anything is pruned at it."""
    return any(spread(p, 1))


def in_order(by_ratio: Mapping[PruneRatio, T]) -> list[tuple[PruneRatio, T]]:
    """Items by rising ratio: numbers first, then those of several adapters."""
    return sorted(by_ratio.items(), key=lambda item: (isinstance(item[0], PerAdapter), item[0]))


def shown_ratio(p: PruneRatio) -> str:
    """A ratio in the name of a folder: two decimals, up to four where it has them; "0.00+1.00" of several."""
    if isinstance(p, PerAdapter):
        return "+".join(map(shown_ratio, p))
    whole, decimals = f"{p:.4f}".split(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def listed(ratios: Iterable[PruneRatio], spec: str = ".2f") -> str:
    """Ratios in a sentence: "0.10, 0.40", or of several adapters "0.00, 1.00; 0.50, 0.50"."""
    found = list(ratios)
    return ("; " if any(isinstance(p, PerAdapter) for p in found) else ", ").join(
        f"{p:{spec}}" for p in found
    )


def _apart(ratios: tuple[PruneRatio, ...]) -> tuple[PruneRatio, ...]:
    if len({f"{p:.4f}" for p in ratios}) < len(ratios):
        raise ValueError("it has two ratios that are the same to four decimals")
    return ratios


def _kind_of_ratio(value: Any) -> str:
    return "ratio[several]" if isinstance(value, list | tuple) else "ratio[one]"


_One = Annotated[
    Annotated[Ratio, Tag("ratio[one]")] | Annotated[PerAdapter, Tag("ratio[several]")],
    Discriminator(_kind_of_ratio),
]
Ratios = Annotated[tuple[_One, ...], AfterValidator(_apart)]
"""In configs: all different to four decimals."""
