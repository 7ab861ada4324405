import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import tiny
from landslip import study
from landslip.assess.evaluate import evaluate
from landslip.assess.scores import Counts
from landslip.geo.errors import DataError, OutputError, UsageError
from landslip.geo.grid import Window
from landslip.geo.labels import open_labels
from landslip.geo.scene import open_scene
from landslip.learn.card import load_card
from landslip.learn.train import train_on_scene
from landslip.study import ModelResult, StudyOptions, StudyResult, run_study
from test_evaluate import write

OPTIONS = StudyOptions(
    models=("unet-small",), changes={"epochs": 1, "steps": 0, "batch": 4, "crop": 16}, folds=3,
    tile_px=16, block_m=80, device="cpu", precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scene of 64 x 96 px and its landslides."""
    folder = tmp_path_factory.mktemp("ground")
    boxes = [(8, 4 + 12 * number, 6, 6) for number in range(7)]
    scene = tiny.write_scene(folder / "scene.tif")
    return scene, tiny.write_inventory(folder / "slides.gpkg", boxes)


@pytest.fixture(scope="module")
def studied(
    ground: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, StudyResult]]:
    out = tmp_path_factory.mktemp("study") / "study"
    yield out, run_study(*ground, out, options=OPTIONS)


def planes(out: Path, name: str) -> tuple[Any, Any]:
    with (
        rasterio.open(out / "maps" / f"{name}.tif") as mapped,
        rasterio.open(out / "maps" / f"{name}_probability.tif") as codes,
    ):
        return mapped.read(1), codes.read(1)


def test_every_part_is_mapped_by_the_model_that_did_not_see_it(
    studied: tuple[Path, StudyResult],
) -> None:
    out, result = studied
    edges = json.loads((out / "study.json").read_text())["asked"]["edges"]
    mapped, codes = planes(out, "unet-small_seed0")
    assert edges[0] == 0
    assert edges[-1] == 96
    assert (codes != 255).all()
    for fold, (left, right) in enumerate(pairwise(edges)):
        name = f"unet-small_seed0_part{fold}"
        with rasterio.open(out / "maps" / name / "probability.tif") as raster:
            own = raster.read(1)
        assert (own[:, left:right] != 255).all()
        assert (own[:, :left] == 255).all()
        assert (own[:, right:] == 255).all()
        np.testing.assert_array_equal(codes[:, left:right], own[:, left:right])
        cut = np.ceil(254 * load_card(out / "models" / f"{name}.safetensors").threshold - 1e-9)
        np.testing.assert_array_equal(mapped[:, left:right], own[:, left:right] >= cut)
        # Nobody learnt from the part, nor from a strip beside it.
        import geopandas as gpd

        sides = gpd.read_file(out / "models" / f"part{fold}.gpkg")
        west = tiny.WEST + tiny.SIZE_M * left
        east = tiny.WEST + tiny.SIZE_M * right
        assert set(sides["split"]) == {"train", "validation"}
        for side in sides.geometry:
            assert side.intersection(tiny.box_at((0, left, 64, right - left))).area == 0
        near = (
            sides[sides["split"] == "train"]
            .union_all()
            .union(sides[sides["split"] == "validation"].union_all())
        )
        gaps = [near.distance(tiny.box_at((0, at, 64, 1))) for at in (left, right - 1)]
        assert min(gaps) >= 2 * tiny.SIZE_M
        assert east > west
    counts = result.models[0].seeds[0].pixels
    assert counts.total == 64 * 96
    rows = result.rows()
    assert rows[1][0] == "unet-small"
    assert (out / "report.html").exists()
    assert (out / "scores" / "report.html").exists()


def test_a_stopped_study_continues_and_may_move(
    ground: tuple[Path, Path],
    studied: tuple[Path, StudyResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = studied
    train = train_on_scene
    trained: list[Any] = []

    def stops(*args: Any, **options: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(args[2])
        return train(*args, **options)

    monkeypatch.setattr(study, "train_on_scene", stops)
    here = tmp_path / "here"
    with pytest.raises(KeyboardInterrupt):
        run_study(*ground, here, options=OPTIONS)
    assert not (here / "report.html").exists()
    monkeypatch.setattr(study, "train_on_scene", train)
    there = tmp_path / "elsewhere" / "there"
    there.parent.mkdir()
    shutil.move(here, there)
    moved = [Path(shutil.copy(path, there.parent)) for path in ground]
    unfinished = there / "models" / "unet-small_seed0_part2.safetensors.partial"
    unfinished.mkdir()
    (unfinished / "state.json").write_text("of another machine")
    before = {
        path.name: path.stat().st_mtime_ns for path in (there / "models").glob("*.safetensors")
    }
    assert len(before) == 2
    run_study(moved[0], moved[1], there, options=OPTIONS)
    assert not unfinished.exists()
    for name, time in before.items():
        assert (there / "models" / name).stat().st_mtime_ns == time
    for one, other in zip(
        planes(whole, "unet-small_seed0"), planes(there, "unet-small_seed0"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    tables = [json.loads((out / "study.json").read_text())["table"] for out in (whole, there)]
    assert tables[0] == tables[1]


def test_other_options_do_not_continue(
    ground: tuple[Path, Path], studied: tuple[Path, StudyResult]
) -> None:
    out, _ = studied
    other = StudyOptions(**{**OPTIONS.__dict__, "seeds": 2, "block_m": 90})
    with pytest.raises(OutputError, match="begun with other options"):
        run_study(*ground, out, options=other)


def test_seeds_make_table_2(ground: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "study"
    scene, inventory = ground
    words = (
        "study", "--scene", scene, "--inventory", inventory, "--models", "unet-small", "--seeds",
        "2", "--folds", "3", "--size", "16", "--block", "80", "--set", "epochs=1", "--set",
        "batch=4", "--set", "crop=16", "--device", "cpu", "--precision", "float32",
    )  # fmt: skip
    done = tiny.landslip(*words, "--out", out)
    assert done.code == 0, done.err
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert [row[0] for row in record["table"]] == ["Network", "unet-small"]
    assert "±" in record["table"][1][3]
    scores = json.loads((out / "scores" / "scores.json").read_text(encoding="utf-8"))
    names = [each["name"] for each in scores["predictions"]]
    assert names == ["unet-small_seed0", "unet-small_seed1"]


def test_networks_are_compared_with_all_seeds_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.zeros((80, 80), np.uint8)
    labels[2::10, 2::10] = labels[3::10, 2::10] = 1
    truth = write(tmp_path / "truth.tif", labels)
    planes_of = [
        np.where(random.random(labels.shape) < wrong, 1 - labels, labels)
        for wrong in (0.2, 0.2, 0.02, 0.02)
    ]
    maps = [write(tmp_path / f"{number}.tif", plane) for number, plane in enumerate(planes_of)]
    evaluation = evaluate(maps, truth, block_m=100)
    found = evaluation.predictions
    networks = ModelResult("bad", found[:2]), ModelResult("good", found[2:])
    result = StudyResult(networks, evaluation)
    rows = result.rows()
    assert [row[0] for row in rows[1:]] == ["bad", "good"]
    mean = np.mean([each.pixels.f1 for each in found[2:]])
    assert rows[2][3].startswith(f"{mean:.3f} ± ")
    told = result.difference(0, 1, "f1")
    together = sum((each.pixels for each in found[2:]), Counts()).f1
    apart = sum((each.pixels for each in found[:2]), Counts()).f1
    assert told.difference == pytest.approx(together - apart)
    assert told.interval is not None
    assert told.interval.low > 0
    assert result.difference_rows()[1][0] == "good – bad"
    interval = networks[1].interval("f1")
    assert interval is not None
    assert interval.low < together < interval.high


def test_parts_have_as_many_usable_landslides_each(ground: tuple[Path, Path]) -> None:
    scene, inventory = ground
    west = tiny.write_inventory(scene.with_name("west.gpkg"), [(0, 0, 64, 60)])
    opened = open_scene(scene, aoi=west)
    labels = open_labels(inventory, opened.grid)
    edges, axis = study._edges(opened, labels, StudyOptions(**{**OPTIONS.__dict__, "tile_px": 16}))
    assert axis == 1
    held = [
        int((labels.read(Window(0, a, 64, b - a)) == 1)[:, : max(60 - a, 0)].sum())
        for a, b in pairwise(edges)
    ]
    assert max(held) - min(held) <= 2 * 6
    opened.close()


def test_what_cannot_be_studied(ground: tuple[Path, Path], tmp_path: Path) -> None:
    def changed(**changes: Any) -> StudyOptions:
        return StudyOptions(**{**OPTIONS.__dict__, **changes})

    with pytest.raises(UsageError, match="0 networks in 3 parts"):
        run_study(*ground, tmp_path / "a", options=changed(models=()))
    with pytest.raises(UsageError, match="1 networks in 2 parts"):
        run_study(*ground, tmp_path / "a", options=changed(folds=2))
    with pytest.raises(DataError, match=r"in 30 parts: .* the narrowest has \d+ px, a tile 16"):
        run_study(*ground, tmp_path / "a", options=changed(folds=30))
    assert not (tmp_path / "a").exists()
