from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import landslip
import tiny
from landslip import cli
from landslip.geo import progress

COMMANDS = typer.main.get_command(cli.app)
VERBS = sorted(COMMANDS.commands)  # type: ignore[attr-defined]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return tiny.write_scene(tmp_path / "scene.tif")


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    return tiny.write_inventory(tmp_path / "landslides.gpkg")


def plain(text: str) -> str:
    """Text without colours and frames."""
    return re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", text)


# Start -------------------------------------------------------------------------------------------


def seconds(*command: str) -> float:
    """Processor time of a command, which a busy machine hardly changes; else wall time."""
    before, wall = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    used = sum(after[2:4]) - sum(before[2:4])
    return used or time.perf_counter() - wall


def test_help_answers_at_once() -> None:
    # Half a second where Python itself starts in 20 ms; slower machines get more.
    python = min(seconds(sys.executable, "-c", "pass") for _ in range(5))
    allowed = 0.5 * max(1.0, python / 0.02)
    best = float("inf")
    for _ in range(5):
        best = min(best, seconds(sys.executable, "-m", "landslip.cli", "--help"))
        if best < allowed:
            return
    pytest.fail(f"landslip --help takes {best:.2f} s, Python alone {python:.3f} s")


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "rasterio", "geopandas", "matplotlib", "scipy", "skimage", "sklearn",
             "pandas", "shapely", "pyproj", "jinja2"}  # fmt: skip
    script = (
        "import sys, landslip, landslip.cli; sys.argv = ['landslip', 'train', '--help']\n"
        "try: landslip.cli.main()\n"
        "except SystemExit: pass\n"
        f"print('LOADED', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_version() -> None:
    done = tiny.landslip("--version")
    assert (done.code, done.out, done.err) == (0, f"landslip {landslip.__version__}\n", "")


# Help --------------------------------------------------------------------------------------------


def test_the_verbs_are_those_of_the_readme() -> None:
    assert {"check", "tile", "train", "info", "map", "evaluate", "convert", "demo"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_verb_has_help_with_an_example(verb: str, flag: str) -> None:
    done = CliRunner().invoke(cli.app, [verb, flag])
    assert done.exit_code == 0
    text = " ".join(plain(done.output).split())
    assert f"Example: landslip {verb}" in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb: str) -> None:
    for parameter in COMMANDS.commands[verb].params:  # type: ignore[attr-defined]
        assert parameter.help, parameter.name


def test_help_names_every_verb_and_shell_completion() -> None:
    done = tiny.landslip("--help")
    assert done.code == 0
    for verb in VERBS:
        assert f" {verb} " in plain(done.out)
    assert "--install-completion" in done.out
    assert "--show-completion" in done.out


def test_shells_complete_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LANDSLIP_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "landslip ev")
    assert "evaluate" in tiny.landslip().out


def test_without_a_verb_there_is_help() -> None:
    done = tiny.landslip()
    assert "COMMAND [ARGS]" in plain(done.out + done.err)
    assert done.code in (0, 2)


# Exit status -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["maap"],
        ["map"],
        ["map", "scene.tif"],
        ["map", "scene.tif", "--model", "m.safetensors", "--out", "map", "--sharpness", "3"],
        ["map", "scene.tif", "--model", "m", "--out", "map", "--min-area", "-1"],
        ["map", "scene.tif", "--model", "m", "--out", "map", "--threshold", "half"],
        ["check"],
        ["tile"],
        ["tile", "scene.tif"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--size", "0"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--stride", "0"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--gap", "-3"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--seed", "-1"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--val", ".9", "--test", ".9"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--val", "nan"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--pixel-size", "0"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--pixel-size", "-2"],
        ["tile", "scene.tif", "--inventory", "i.gpkg", "--pixel-size", "nan"],
        ["tile", "--from-folder", "pictures"],
        ["tile", "--from-folder", "pictures", "--bands", "red", "--pixel-size", "inf"],
        ["tile", "scene.tif", "--from-folder", "p", "--bands", "red", "--pixel-size", "1"],
        ["tile", "--from-folder", "p", "--bands", "red", "--pixel-size", "1", "--dem", "d.tif"],
        ["tile", "--from-folder", "p", "--bands", "B4", "--pixel-size", "1", "--sensor", "spot"],
        ["train"],
        ["train", "tiles", "--scene", "scene.tif", "--inventory", "i.gpkg"],
        ["train", "--scene", "scene.tif"],
        ["train", "tiles", "--recipe", "secret"],
        ["train", "tiles", "--epochs", "0"],
        ["train", "tiles", "--batch", "0"],
        ["train", "tiles", "--learning-rate", "0"],
        ["train", "tiles", "--learning-rate", "nan"],
        ["train", "tiles", "--weight-decay", "-1"],
        ["train", "tiles", "--recipe", "paper", "--drop-every", "0"],
        ["train", "tiles", "--crop", "-4"],
        ["train", "tiles", "--seed", "-1"],
        ["evaluate"],
        ["evaluate", "map.tif"],
        ["evaluate", "--model", "m.safetensors"],
        ["convert", "authors.pth"],
        ["convert", "authors.pth", "--out", "m.safetensors", "--pixel-size", "0"],
        ["info"],
        ["demo", "--scene", "scene.tif"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_calls_exit_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tiny.landslip(*words)
    assert done.code == 2
    assert "Error" in plain(done.err)
    assert "Traceback" not in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["check", "scene.tif"],
        ["tile", "scene.tif", "--inventory", "i.gpkg"],
        ["map", "scene.tif", "--model", "m.safetensors", "--out", "map"],
        ["train", "tiles"],
        ["train", "--scene", "scene.tif", "--inventory", "i.gpkg"],
        ["info", "m.safetensors"],
        ["evaluate", "map.tif", "--reference", "i.gpkg"],
        ["evaluate", "--model", "m.safetensors", "--tiles", "tiles"],
        ["convert", "authors.pth", "--out", "m.safetensors"],
    ],
    ids=" ".join,
)
def test_data_that_is_not_there_exits_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tiny.landslip(*words)
    assert done.code == 1
    assert done.message.startswith("Cannot ")
    assert done.err.count("Error:") == 1
    assert "Traceback" not in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_things_stand(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landslip.prepare import check

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("stopped in epoch 3; the same command continues")

    monkeypatch.setattr(check, "check_scene", stopped)
    done = tiny.landslip("check", scene)
    assert done.code == 130
    assert done.err == "stopped in epoch 3; the same command continues\n"


# Output ------------------------------------------------------------------------------------------


def test_check_prints_json_alone(scene: Path, inventory: Path) -> None:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    done = tiny.landslip("-v", "check", scene, "--inventory", inventory, "--json")
    assert done.code == 0
    found = json.loads(done.out, parse_constant=refuse)
    assert found["bands"] == list(tiny.RGN)
    assert found["inventory"]["inside"] == len(tiny.LANDSLIDES)
    # No landslide, no label, no valid pixel: undefined is null.
    alone = tiny.landslip("check", scene, "--json")
    assert json.loads(alone.out, parse_constant=refuse)["inventory"] is None


def test_check_of_nothing_valid_is_json_too(tmp_path: Path, inventory: Path) -> None:
    import numpy as np

    empty = tiny.write_scene(
        tmp_path / "e.tif", np.zeros((1, 64, 96), "uint8"), bands=["nir"], nodata=0
    )
    done = tiny.landslip("check", empty, "--inventory", inventory, "--json")
    assert done.code in (0, 1)
    if done.code == 0:
        assert "NaN" not in done.out
        json.loads(done.out)


def test_quiet_is_silent(scene: Path, inventory: Path, tmp_path: Path) -> None:
    checked = tiny.write_inventory(tmp_path / "checked.gpkg", [(0, 0, 64, 96)])
    words: list[str | Path] = [
        "tile",
        scene,
        "--inventory",
        inventory,
        "--checked",
        checked,
        "--size",
        "16",
    ]
    done = tiny.landslip("-q", *words, "--out", tmp_path / "a")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = tiny.landslip(*words, "--out", tmp_path / "b")
    assert "train" in done.out


def test_quiet_still_warns(scene: Path, inventory: Path, tmp_path: Path) -> None:
    done = tiny.landslip(
        "-q", "tile", scene, "--inventory", inventory, "--size", "16", "--out", tmp_path / "a"
    )
    assert done.out == ""
    assert done.err == (
        "Note: no --checked areas: all ground without a landslide counts as checked background\n"
    )


def test_progress_is_plain_where_nobody_watches(
    scene: Path, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    done = tiny.landslip(
        "tile", scene, "--inventory", inventory, "--size", "16", "--split", "columns:48,80",
        "--out", tmp_path / "tiles",
    )  # fmt: skip
    lines = done.err.splitlines()
    shown = [line for line in lines if line.startswith("Tiling: ")]
    assert shown[0].startswith("Tiling: 1 of 24, ")
    assert re.fullmatch(r"Tiling: 23 of 24, \d+ s left", shown[-1])
    assert "\x1b" not in done.err + done.out
    assert "\r" not in done.err
    assert all(line == line.rstrip() for line in lines)


def test_paths_are_printed_as_they_are(tmp_path: Path, inventory: Path) -> None:
    folder = tmp_path / "a[bold]b[/x]" / ("long_" * 30)
    missing = folder / "scene.tif"
    done = tiny.landslip("check", missing)
    assert done.err == (
        f"Error: Cannot open {missing}: there is no such file. Check its name and folder.\n"
    )
    scene = tiny.write_scene(tmp_path / "[red]scene[/].tif")
    out = tmp_path / "[/tiles]"
    done = tiny.landslip("tile", scene, "--inventory", inventory, "--size", "16", "--out", out)
    assert done.code == 0
    assert str(out) in done.out
    done = tiny.landslip("check", scene, "--out", tmp_path / "[i].png")
    assert done.code == 0
    assert f"Picture: {tmp_path / '[i].png'}" in done.out


def test_the_command_line_leaves_logging_to_python() -> None:
    log = logging.getLogger("landslip")
    before = log.handlers[:], log.propagate, log.level
    tiny.landslip("--version")
    assert (log.handlers, log.propagate, log.level) == before


def test_info_prints_the_card(tmp_path: Path) -> None:
    model = tiny.tiny_model(
        tmp_path / "valley.safetensors", licence="CC0-1.0", note="[b]made up[/b]",
        scores={"test": {"precision": None, "recall": 0.5, "f1": None, "iou": 0.25}},
    )  # fmt: skip
    done = tiny.landslip("info", model)
    assert done.code == 0
    for text in ("valley", "unet-small", "nir, red, green", "10 m", "CC0-1.0", "[b]made up[/b]",
                 "0.500", "0.250"):  # fmt: skip
        assert text in done.out, text
    as_json = tiny.landslip("info", model, "--json")
    assert json.loads(as_json.out)["licence"] == "CC0-1.0"
    assert as_json.err == ""


def test_check_looks_at_scenes_without_band_names(tmp_path: Path) -> None:
    bare = tiny.write_scene(tmp_path / "bare.tif", bands=[None, None, None])
    done = tiny.landslip("check", bare)
    assert done.code == 0
    assert "--bands" in done.out
    named = tiny.landslip("check", bare, "--bands", "nir, red,green", "--json")
    assert json.loads(named.out)["bands"] == ["nir", "red", "green"]
