"""Conditions on columns, in three values: true, false, and unknown where something is missing.

Source: Kleene 1952, Introduction to Metamathematics, section 64 (strong logic of three values).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Bools = NDArray[np.bool_]
Answer = tuple[Bools, Bools]
"""Where a condition is surely true, and where it is surely false, shape (N,) each."""

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
KINDS = {
    "boolean": "true or false",
    "integer": "numbers",
    "floating": "numbers",
    "mixed-integer-float": "numbers",
    "decimal": "numbers",
    "string": "text",
    "date": "dates",
    "datetime": "dates",
    "datetime64": "dates",
    "empty": "",
}
"""What pandas infers of a column, and what it is here; empty: nothing in it is known."""


@dataclass(frozen=True, eq=False)
class _Known:
    """Values of a column or a literal, as far as they are known."""

    kind: str
    """One of the values of `KINDS`."""
    values: Any
    """Shape (N,), or a single one."""
    known: Any
    """True where there is one."""


@dataclass(frozen=True)
class Value:
    """What is compared: a column, or a literal."""

    text: str
    """As it is written; the name of a column."""
    literal: float | str | bool | None = None
    """None: it is a column."""

    @property
    def columns(self) -> Iterator[str]:
        """The name, if it is one."""
        if self.literal is None:
            yield self.text

    def of(self, frame: pd.DataFrame) -> _Known:
        """What it is in each row."""
        if self.literal is None:
            return _of_column(frame[self.text])
        kind = {bool: "true or false", float: "numbers", str: "text"}[type(self.literal)]
        return _Known(kind, self.literal, np.True_)


@dataclass(frozen=True)
class Comparison:
    """One value against another."""

    left: Value
    sign: str
    right: Value

    @property
    def columns(self) -> Iterator[str]:
        """Names in it."""
        yield from self.left.columns
        yield from self.right.columns

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Where it is surely true, and where surely false."""
        left, right = self.left.of(frame), self.right.of(frame)
        if "" in (left.kind, right.kind):
            nowhere = np.zeros(len(frame), dtype=bool)
            return nowhere, nowhere
        left, right = _as_dates(left, right), _as_dates(right, left)
        if left.kind != right.kind:
            raise UsageError(
                f"{self.left.text} ({left.kind}) is compared with {self.right.text} "
                f"({right.kind}). Compare like with like"
            )
        found = np.asarray(COMPARE[self.sign](left.values, right.values), dtype=bool)
        known = left.known & right.known
        return known & found, known & ~found


@dataclass(frozen=True)
class Holds:
    """A column of true or false by itself."""

    value: Value

    @property
    def columns(self) -> Iterator[str]:
        """Names in it."""
        return self.value.columns

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Where it is surely true, and where surely false."""
        own = self.value.of(frame)
        if own.kind not in ("true or false", ""):
            raise UsageError(
                f"{self.value.text} ({own.kind}) stands alone, where only true or false can. "
                "Compare it with something"
            )
        found = np.broadcast_to(np.asarray(own.values, dtype=bool), len(frame))
        return own.known & found, own.known & ~found


@dataclass(frozen=True)
class Not:
    """The opposite; of the unknown it is unknown."""

    inner: Condition

    @property
    def columns(self) -> Iterator[str]:
        """Names in it."""
        return self.inner.columns

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Where it is surely true, and where surely false."""
        true, false = self.inner.answer(frame)
        return false, true


@dataclass(frozen=True)
class Joined:
    """Conditions of which all, or any, must be true."""

    word: str
    """`and` or `or`."""
    parts: tuple[Condition, ...]

    @property
    def columns(self) -> Iterator[str]:
        """Names in it."""
        for part in self.parts:
            yield from part.columns

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Where it is surely true, and where surely false."""
        true, false = zip(*(part.answer(frame) for part in self.parts), strict=True)
        if self.word == "and":
            return np.logical_and.reduce(true), np.logical_or.reduce(false)
        return np.logical_or.reduce(true), np.logical_and.reduce(false)


Condition: TypeAlias = Comparison | Holds | Not | Joined


def _of_column(column: pd.Series) -> _Known:
    """Values of a column, numbers as float64; what is missing is replaced by any value."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    known = column.notna().to_numpy()
    kind = KINDS.get(pd.api.types.infer_dtype(column, skipna=True))
    if not known.any():
        kind = ""
    values: NDArray[Any]
    if kind == "numbers":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    elif kind == "true or false":
        values = column.to_numpy(dtype=bool, na_value=False)
    elif kind == "text":
        values = column.to_numpy(dtype=object, na_value="")
    elif kind == "dates":
        values = pd.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy()
    elif kind == "":
        values = np.zeros(len(column), dtype=bool)
    else:
        raise UsageError(
            f"{column.name} holds neither numbers, text, dates nor true or false. "
            "Name another column"
        )
    return _Known(kind, values, known)


def _as_dates(own: _Known, other: _Known) -> _Known:
    """A quoted text as a date (UTC), where it is compared with dates."""
    if other.kind != "dates" or not isinstance(own.values, str):
        return own
    try:
        date = datetime.fromisoformat(own.values)
    except ValueError:
        raise UsageError(
            f"'{own.values}' is no date and is compared with dates. Write it as '2024-12-31'"
        ) from None
    if date.tzinfo is not None:
        date = date.astimezone(UTC).replace(tzinfo=None)
    return _Known("dates", np.datetime64(date), own.known)
