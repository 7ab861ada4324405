"""What the benchmarks of training share: options, names of runs, and results that are kept."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import landslip
from landslip.geo.output import whole_file
from landslip.learn.models import DEFAULT_MODEL


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The option that changes settings of a recipe."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


def add_training(parser: argparse.ArgumentParser) -> None:
    """The options that name a training: network, recipe, settings, seed."""
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--recipe", default="modern")
    add_settings(parser)
    parser.add_argument("--seed", type=int, default=0)


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options as typed, and the changed settings; progress shows from here on."""
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("landslip").setLevel(logging.INFO)
    return asked, dict(item.split("=", 1) for item in getattr(asked, "set", ()))


def settings_of(recipe: str, changed: dict[str, str]) -> landslip.Recipe:
    """A recipe; the paper's drops follow its budget: three rates, as long as each other."""
    if recipe == "paper" and "epochs" in changed and "drop_every" not in changed:
        changed = {**changed, "drop_every": str(-(-int(changed["epochs"]) // 3))}
    return landslip.recipe_named(recipe, changed)


def name_of(*words: str, changed: Mapping[str, str]) -> str:
    """The name of a run: some words, as file names bear them, and what was changed."""
    plain = [word.replace("/", "-").replace(":", "-") for word in words]
    return "_".join([*plain, *(f"{key}={value}" for key, value in sorted(changed.items()))])


def read_results(path: Path) -> dict[str, Any]:
    """Finished runs by name."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return kept


def keep(path: Path, key: str, record: Any, *, indent: int | None = 1) -> None:
    """Add a finished run; others may run beside it and add theirs."""
    folder = Path("local")
    folder.mkdir(exist_ok=True)
    with (folder / f"{path.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read_results(path) | {key: record}
        with whole_file(path, overwrite=True) as partial:
            partial.write_text(json.dumps(results, indent=indent, sort_keys=True) + "\n")
