from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import geopandas as gpd
import pytest

from landslip import demo
from landslip.geo.errors import OutputError
from landslip.samples.synthetic import make_valley, write_valley

SMALL = (448, 832)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over the tiles of a smaller valley."""
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "make_valley", partial(make_valley, SMALL))


def test_journey_on_the_valley(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "demo"
    caplog.set_level("INFO", logger="landslip")
    report = demo.run_demo(out)
    page = report.read_text(encoding="utf-8")
    assert page.count("data:image/") == 6
    assert "95 % of the draws of" in page or "No interval" in page
    assert "<script" not in page
    assert "The best NDVI threshold" in page
    assert "the model reaches" in caplog.text
    # Training knows only landslides inside the checked squares, the score all of unseen ground.
    squares = gpd.read_file(out / "input" / "checked.gpkg").union_all()
    known = gpd.read_file(out / "input" / "known.gpkg").union_all()
    unseen = gpd.read_file(out / "unseen.gpkg").union_all()
    assert known.difference(squares.buffer(0.01)).area == 0
    assert unseen.distance(squares) >= demo.UNSEEN_MARGIN_M - 0.5
    scores = json.loads((out / "scores" / "scores.json").read_text())
    assert scores["ground"]["km2"] == pytest.approx(unseen.area / 1e6, rel=0.35)
    with pytest.raises(OutputError, match=r"report\.html: it exists already"):
        demo.run_demo(out)
    weights = (out / "model.safetensors").read_bytes()
    demo.run_demo(out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == weights
    with pytest.raises(OutputError, match="seed = 0, now 1"):
        demo.run_demo(out, seed=1, overwrite=True)


def test_journey_on_own_files(tmp_path: Path) -> None:
    files = write_valley(make_valley(SMALL, seed=1), tmp_path / "own")
    out = tmp_path / "demo"
    report = demo.run_demo(out, scene=files.scene, inventory=files.landslides)
    page = report.read_text(encoding="utf-8")
    assert "scene.tif: landslides mapped and scored" in page
    assert "best NDVI" not in page
    tiles = gpd.read_file(out / "tiles" / "tiles.gpkg")
    tested = tiles[tiles.split == "test"].union_all()
    unseen = gpd.read_file(out / "unseen.gpkg").union_all()
    assert unseen.symmetric_difference(tested).area < 1
    assert tested.intersection(tiles[tiles.split == "train"].union_all()).area == 0
