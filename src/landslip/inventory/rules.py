"""Rules that flag landslides by their attributes, from a text file that people edit.

One rule a line, as `slope_mean_deg < 5 and area_m2 < 500 -> likely_not_landslide`::

    rule       = condition "->" flag
    condition  = every { "or" every }
    every      = fact { "and" fact }
    fact       = { "not" } ( "(" condition ")" | comparison | column | "true" | "false" )
    comparison = value ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) value
    value      = column | number | quoted text | "true" | "false"

`#` begins a comment. What is missing is unknown, and so is a comparison with it: a rule fires only
where its condition is surely true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import DataError, UsageError
from landslip.inventory.conditions import (
    COMPARE,
    Bools,
    Comparison,
    Condition,
    Holds,
    Joined,
    Not,
    Value,
)

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE = "slope_mean_deg < 5 and area_m2 < 500 -> likely_not_landslide"
DEEPEST = 50
"""Parentheses within parentheses; Python would stop at some hundred."""
WORDS = ("and", "or", "not", "true", "false")
TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<end>\#.*)
    | (?P<text>"[^"]*"|'[^']*')
    | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<name>[^\W\d]\w*)
    | (?P<mark>->|[<>=!]=|[<>()])
    | (?P<other>.)""",
    re.VERBOSE,
)
FLAG = re.compile(r"\w[\w-]*")
INSTEAD = {"=": "==", "!": "not", "&": "and", "|": "or", ",": "and", "≤": "<=", "≥": ">="} | (
    dict.fromkeys("“”„«»", '"') | dict.fromkeys("‘’‚", "'")
)
"""What people write, and what is meant."""


@dataclass(frozen=True)
class Rule:
    """A condition and the flag that it gives."""

    flag: str
    text: str
    """As it is written, without a comment."""
    condition: Condition
    place: str
    """Line and file, for messages."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in it, each once, in the order in which they come."""
        return tuple(dict.fromkeys(self.condition.columns))

    def fires(self, frame: pd.DataFrame) -> Bools:
        """Where the condition is surely true, shape (N,).

        Raises:
            UsageError: A column does not exist, or what is in it cannot be compared so.
        """
        require_columns((self,), frame.columns)
        try:
            return self.condition.answer(frame)[0]
        except UsageError as error:
            raise UsageError(f"Cannot apply {self.place} ({self.text}): {error}.") from None


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read rules from a file.

    Args:
        path: Text in UTF-8, one rule a line; `#` begins a comment.

    Raises:
        DataError: There is no such file, or it is no text.
        UsageError: A rule cannot be read, or there is none.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "there is no such file" if missing else error.strerror
        raise DataError(
            f"Cannot open rules {path}: {reason}. Check its name and folder."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"Cannot read rules {path}: it is not text in UTF-8. Save it so."
        ) from error
    return parse_rules(text, str(path))


def parse_rules(text: str, where: str) -> tuple[Rule, ...]:
    """Rules of a text, one a line.

    Args:
        text: Lines.
        where: What it comes from, for messages.

    Raises:
        UsageError: A rule cannot be read, or there is none.
    """
    lines = [_Line(line, f"line {at} of {where}") for at, line in enumerate(text.split("\n"), 1)]
    rules = tuple(line.rule() for line in lines if not line.is_empty)
    if not rules:
        raise UsageError(f"Cannot use {where}: it holds no rule. Write one a line, as: {EXAMPLE}")
    return rules


def require_columns(rules: Iterable[Rule], names: Iterable[str]) -> None:
    """Raise UsageError where rules name a column that an inventory does not have.

    Args:
        rules: Any.
        names: Of all its columns.
    """
    there = [str(name) for name in names]
    for rule in rules:
        for column in rule.columns:
            if column not in there:
                close = get_close_matches(column, there, n=3) or sorted(there)
                raise UsageError(
                    f"Cannot apply {rule.place} ({rule.text}): the inventory has no column "
                    f"{column}. Name one that it has: {', '.join(close)}."
                )


def flags(frame: pd.DataFrame, rules: Iterable[Rule]) -> NDArray[np.object_]:
    """Flags of every landslide, shape (N,): in the order of the rules, joined by a comma.

    Args:
        frame: One row a landslide.
        rules: Several may give the same flag.

    Raises:
        UsageError: A column does not exist, or what is in it cannot be compared so.
    """
    fired: dict[str, Bools] = {}
    for rule in rules:
        found = rule.fires(frame)
        fired[rule.flag] = found | fired.get(rule.flag, found)
    texts = np.full(len(frame), "", dtype=object)
    for flag, rows in fired.items():
        before = texts[rows]
        texts[rows] = np.where(before == "", flag, before + f", {flag}")
    return texts


@dataclass(frozen=True)
class _Token:
    kind: str
    """text, number, name, word, mark, other, or end."""
    text: str
    at: int
    """First character, from 0."""


class _Line:
    """One line, read from left to right."""

    def __init__(self, line: str, place: str) -> None:
        self._line, self._place = line, place
        self._tokens = list(_tokens(line))
        self._next = self._depth = 0

    @property
    def is_empty(self) -> bool:
        return self._tokens[0].kind == "end"

    def rule(self) -> Rule:
        condition = self._condition()
        arrow = self._peek
        if arrow.text != "->":
            raise self._expected("'and', 'or' or '->'")
        begin = arrow.at + 2
        begin += len(self._line[begin:]) - len(self._line[begin:].lstrip())
        flag = FLAG.match(self._line, begin)
        while self._peek.kind != "end" and self._peek.at < begin:
            self._next += 1
        if flag is None:
            raise self._expected("the name of a flag (letters, digits, _ and -)")
        while self._peek.kind != "end" and self._peek.at < flag.end():
            self._next += 1
        if self._peek.kind != "end":
            raise self._expected("the end of the line")
        return Rule(flag[0], self._line[: flag.end()].strip(), condition, self._place)

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> str:
        """The next token if it is one of some marks or words, else nothing."""
        token = self._peek
        if token.kind not in ("mark", "word") or token.text not in texts:
            return ""
        self._next += 1
        return token.text

    def _condition(self) -> Condition:
        parts = [self._every()]
        while self._take("or"):
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else Joined("or", tuple(parts))

    def _every(self) -> Condition:
        parts = [self._fact()]
        while self._take("and"):
            parts.append(self._fact())
        return parts[0] if len(parts) == 1 else Joined("and", tuple(parts))

    def _fact(self) -> Condition:
        opposite = False
        while self._take("not"):
            opposite = not opposite
        fact = self._inside() if self._take("(") else self._comparison()
        return Not(fact) if opposite else fact

    def _inside(self) -> Condition:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._error(f"more than {DEEPEST} parentheses within each other. Write less:")
        inner = self._condition()
        if not self._take(")"):
            raise self._expected("'and', 'or' or ')'")
        self._depth -= 1
        return inner

    def _comparison(self) -> Condition:
        first = self._peek
        left = self._value("a condition")
        sign = self._take(*COMPARE)
        if not sign:
            if left.literal is None or isinstance(left.literal, bool):
                return Holds(left)
            raise self._expected("a comparison")
        right = self._value("a number, a quoted text or a column")
        if left.literal is not None and right.literal is not None:
            raise self._error("no column is compared. Name one:", first.at)
        if again := self._take(*COMPARE):
            self._next -= 1
            raise self._error(
                "comparisons cannot be chained. "
                f"Write {left.text} {sign} {right.text} and {right.text} {again} ...:"
            )
        return Comparison(left, sign, right)

    def _value(self, expected: str) -> Value:
        token = self._peek
        literal: float | str | bool | None = None
        if token.kind == "number":
            literal = float(token.text)
        elif token.kind == "text":
            literal = token.text[1:-1]
        elif token.kind == "word" and token.text in ("true", "false"):
            literal = token.text == "true"
        elif token.kind != "name":
            raise self._expected(expected)
        self._next += 1
        return Value(token.text, literal)

    def _expected(self, what: str) -> UsageError:
        found = self._peek
        after = f" after '{self._tokens[self._next - 1].text}'" if self._next else ""
        shown = "the end of the line" if found.kind == "end" else f"'{found.text}'"
        remedy = "Correct it:"
        if found.text in ("'", '"'):
            remedy = f"End the quoted text with {found.text}:"
        elif found.kind == "other" and found.text in INSTEAD:
            remedy = f"Write {INSTEAD[found.text]} instead:"
        return self._error(f"expected {what}{after}, found {shown}. {remedy}")

    def _error(self, what: str, at: int | None = None) -> UsageError:
        """With the line, and a caret below the character."""
        at = self._peek.at if at is None else at
        space = re.sub(r"\S", " ", self._line[:at])
        return UsageError(
            f"Cannot read {self._place}, at character {at + 1}: {what}\n"
            f"  {self._line.rstrip()}\n  {space}^"
        )


def _tokens(line: str) -> Iterator[_Token]:
    """Tokens of a line; the last is its end, or a comment."""
    for found in TOKEN.finditer(line):
        kind, text = str(found.lastgroup), found[0]
        if kind == "name" and text.lower() in WORDS:
            kind, text = "word", text.lower()
        if kind != "space":
            yield _Token(kind, text, found.start())
        if kind == "end":
            return
    yield _Token("end", "", len(line.rstrip()))
