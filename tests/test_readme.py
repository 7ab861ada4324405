from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
import typer

import landslip
from landslip import cli
from landslip.samples.synthetic import make_valley, write_valley

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line)[1:]
    for kind, text in BLOCKS
    if not kind
    for line in text.splitlines()
    if line.startswith("landslip ")
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_are_understood(command: list[str]) -> None:
    group = typer.main.get_command(cli.app)
    context = group.make_context("landslip", list(command))
    verb = group.get_command(context, command[0])  # type: ignore[attr-defined]
    assert verb is not None
    verb.make_context(command[0], command[1:], parent=context)


@pytest.mark.slow
def test_commands_on_the_valley_work_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valley = make_valley(seed=0)
    files = write_valley(valley, tmp_path / "demo" / "input")
    squares = shapely.union_all(valley.checked)
    known = [shape & squares for shape in valley.landslides if shape.intersects(squares)]
    gpd.GeoDataFrame(geometry=known, crs=valley.crs).to_file(files.scene.parent / "known.gpkg")
    unseen = shapely.box(*gpd.read_file(files.landslides).total_bounds) - squares.buffer(32)
    frame = gpd.GeoDataFrame(geometry=[unseen], crs=valley.crs)
    frame.to_file(tmp_path / "demo" / "unseen.gpkg")
    monkeypatch.chdir(tmp_path)
    ran = [command for command in COMMANDS if any("demo/input" in word for word in command)]
    assert [command[0] for command in ran] == ["pansharpen", "train", "map", "evaluate"]
    for command in ran:
        monkeypatch.setattr("sys.argv", ["landslip", "-q", *command])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
    assert (tmp_path / "sharp-quality" / "quality.png").exists()
    assert (tmp_path / "valley-map" / "landslides.gpkg").exists()
    assert (tmp_path / "valley-scores" / "scores.json").exists()


def test_python_example_fits_the_signatures() -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "python")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert len(calls) >= 4
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        function = getattr(landslip, call.func.attr)
        given = {word.arg: None for word in call.keywords if word.arg}
        inspect.signature(function).bind(*call.args, **given)


def test_every_verb_is_told_of() -> None:
    group = typer.main.get_command(cli.app)
    for verb in group.commands:  # type: ignore[attr-defined]
        assert f"`{verb} " in README or f"`{verb}`" in README


def test_pictures_and_pages_exist() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / link).exists(), link
