"""The command itself: what it says, and how it ends."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from landslip import __version__

STOPPED = 130
"""Exit status after Ctrl-C, as shells have it."""


class _Verbs(TyperGroup):
    """Says how Ctrl-C left things, which typer would turn into a bare exit."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            fail(str(stopped) or "stopped; nothing half-written is left", STOPPED)


app = typer.Typer(
    name="landslip",
    cls=_Verbs,
    help="From a satellite scene to a landslide inventory.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# No markup: paths and names may hold brackets.
console = Console(markup=False, highlight=False)
errors = Console(stderr=True, markup=False, highlight=False)


def _version(asked: bool) -> None:
    if asked:
        console.print(f"landslip {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a satellite scene to a landslide inventory."""
    log = logging.getLogger("landslip")
    log.handlers[:] = [_Lines()]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


class _Lines(logging.Handler):
    """Messages on standard error, a line each; warnings begin with "Note:"."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            note(errors, text)
        else:
            errors.print(text, soft_wrap=True)


def note(to: Console, text: str) -> None:
    """Print a line that begins with "Note:"."""
    to.print(Text.assemble(("Note:", "yellow"), f" {text}"), soft_wrap=True)


def say(made: Any) -> None:
    """Print what was made, unless --quiet; lines are not wrapped, because people copy paths."""
    if logging.getLogger("landslip").isEnabledFor(logging.INFO):
        console.print(made, soft_wrap=isinstance(made, str))


def table_of(title: str, rows: list[tuple[str, str]]) -> Any:
    """What and how much, a row each."""
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def table_of_scores(title: str, scores: dict[str, dict[str, float | None]]) -> Any:
    """Scores of one or more grounds, a row each."""
    from rich.table import Table

    table = Table("ground", "precision", "recall", "F1", "IoU", title=title, title_justify="left")
    for split, found in scores.items():
        values = [found.get(key) for key in ("precision", "recall", "f1", "iou")]
        table.add_row(split, *("-" if value is None else f"{value:.3f}" for value in values))
    return table


def fail(message: str, code: int) -> NoReturn:
    """Print what went wrong, and end."""
    text = Text(message) if code == STOPPED else Text.assemble(("Error:", "red"), f" {message}")
    errors.print(text, soft_wrap=True)
    sys.exit(code)
