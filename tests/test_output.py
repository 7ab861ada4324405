import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from landslip.geo.errors import OutputError
from landslip.geo.grid import Grid
from landslip.geo.output import (
    is_whole_tiff,
    refuse_existing,
    replace_folder,
    require_space,
    whole_file,
    whole_folder,
)

WriteRaster = Callable[..., Path]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["map.tif", "map[1].txt", "no ending", ".hidden", "größe*?.gpkg"])
def test_files_appear_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / "folder" / name
    with whole_file(path) as partial:
        assert partial.parent == path.parent
        assert not path.suffix or partial.suffix == path.suffix
        partial.write_text("half")
        assert not path.exists()
        if path.suffix == ".tif":
            write_tiff(partial)
    assert names(path.parent) == [name]


@pytest.mark.parametrize("name", ["map.tif", "map[1].txt", "größe*?.gpkg"])
def test_nothing_half_written_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        partial.with_name(f"{partial.name}-journal").write_text("of a database")
        raise RuntimeError
    assert names(tmp_path) == []


def test_an_older_file_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path, overwrite=True) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["map.txt"]
    with whole_file(path, overwrite=True) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def test_existing_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text("old")
    folder = tmp_path / "folder"
    folder.mkdir()
    for existing in (path, folder):
        with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
            refuse_existing(existing, overwrite=False)
    with pytest.raises(OutputError, match="exists already"), whole_file(path):
        pytest.fail("must not start")
    with pytest.raises(OutputError, match="exists already"), whole_folder(folder, "index"):
        pytest.fail("must not start")
    assert path.read_text() == "old"
    refuse_existing(path, overwrite=True)
    refuse_existing(tmp_path / "new", overwrite=False)


def test_folders_appear_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tiles.v1"
    with whole_folder(path, "index") as partial:
        (partial / "one").write_text("1")
        assert not path.exists()
    assert names(path) == ["one"]
    assert names(path.parent) == ["tiles.v1"]


def test_folders_replace_older_ones_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "tiles"
    path.mkdir()
    (path / "old").write_text("")
    (path / "index").write_text("")
    with pytest.raises(RuntimeError), whole_folder(path, "index", overwrite=True) as partial:
        (partial / "half").write_text("")
        raise RuntimeError
    assert names(path) == ["index", "old"]
    with whole_folder(path, "index", overwrite=True) as partial:
        (partial / "new").write_text("")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["tiles"]


def test_folders_of_others_are_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    path.mkdir()
    (path / "holiday.jpg").write_text("")
    with (
        pytest.raises(OutputError, match="holds no index"),
        whole_folder(path, "index", overwrite=True),
    ):
        pytest.fail("must not start")
    assert names(path) == ["holiday.jpg"]


def test_a_file_gives_way_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out").is_dir()
    assert names(tmp_path) == ["out"]


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "map.txt", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="Name an output that you may"), whole_file(path):
            pytest.fail("must not start")  # pragma: no cover
    with (
        pytest.raises(OutputError, match="Name an output that you may"),
        whole_file(tmp_path / "folder", overwrite=True) as partial,
    ):
        partial.write_text("")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs rights that can be denied")
def test_denied_rights_are_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(OutputError, match="Permission denied"),
        whole_file(tmp_path / "map.txt") as partial,
    ):
        partial.write_text("")


def test_space_is_asked_for_in_time(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet" / "there.tif", 1)
    with pytest.raises(OutputError, match=r"1000000000\.00 GB are needed and .* are free"):
        require_space(tmp_path / "map.tif", 10**18)


# Full disks

FULL_DISK = """
import json, resource, sys
sys.dont_write_bytecode = True
from pathlib import Path
import numpy as np
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from landslip.geo.errors import OutputError
from landslip.geo.grid import Grid
from landslip.geo.output import whole_file, whole_folder
from landslip.geo.raster import create_raster

folder = Path(sys.argv[1])
grid = Grid(CRS.from_epsg(32648), Affine(10, 0, 5e5, 0, -10, 38e5), 512, 512)
noise = np.random.default_rng(0).integers(0, 255, (1, 512, 512), dtype=np.uint8)

def plain(path):
    path.write_bytes(b"x" * 300_000)

def tiff(path, rows=512, limit=None):
    with create_raster(path, grid, bands=["a"], dtype="uint8") as out:
        out.write(noise[:, :rows], window=((0, rows), (0, 512)))

def tiff_on_closing(path):
    tiff(path, rows=300)

def gpkg(path):
    import geopandas as gpd, shapely
    from landslip.geo.inventory import write_layers
    boxes = [shapely.Point(10 * i, 0).buffer(4) for i in range(500)]
    write_layers(path, {"landslides": gpd.GeoDataFrame(geometry=boxes, crs=32648)})

def cog(path):
    rasterio.shutil.copy(folder / "source.tif", path, driver="COG", compress="deflate")

def folder_of_tiffs(path):
    with whole_folder(path.with_suffix(""), "one.tif") as inner:
        tiff_on_closing(inner / "one.tif")

tiff(folder / "source.tif")
gpkg(folder / "warm.gpkg")
(folder / "warm.gpkg").unlink()
found = {}
for write, name, limit in [
    (plain, "plain.txt", 200_000),
    (tiff, "tiff.tif", 100_000),
    (tiff_on_closing, "closing.tif", 100_000),
    (gpkg, "slides.gpkg", 200_000),
    (cog, "cog.tif", 200_000),
    (cog, "nearly.tif", (folder / "source.tif").stat().st_size),
    (folder_of_tiffs, "folder.tif", 100_000),
]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with whole_file(folder / name) as partial:
            write(partial)
        found[name] = "written"
    except OutputError as error:
        found[name] = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([found, sorted(path.name for path in folder.iterdir())]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, left = json.loads(done.stdout.splitlines()[-1])
    for name in ("plain.txt", "closing.tif"):
        assert f"{name}: the disk is full" in found[name]
    for name in ("tiff.tif", "slides.gpkg", "cog.tif"):
        assert "Check the free space" in found[name], found
    for name in ("nearly.tif", "folder.tif"):
        assert "Cannot write" in found[name], found
    assert left == ["source.tif"]


def write_tiff(path: Path, **profile: object) -> None:
    values = np.random.default_rng(0).integers(0, 255, (2, 300, 300), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=300, width=300, dtype="uint8", crs=32648,
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile,
    ) as dataset:  # fmt: skip
        dataset.write(values)
        dataset.set_band_description(1, "a long description that is stored as text")


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "interleave": "band"},
    ],
    ids=["strips", "tiles", "big", "big-endian", "both"],
)
def test_short_tiffs_are_known(tmp_path: Path, profile: dict[str, object]) -> None:
    path = tmp_path / "whole.tif"
    write_tiff(path, **profile)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    assert is_whole_tiff(path)
    content = path.read_bytes()
    short = tmp_path / "short.tif"
    for left in (0, 1, 8, 100, len(content) // 2, len(content) - 1000, len(content) - 1):
        short.write_bytes(content[:left])
        assert not is_whole_tiff(short), left


def test_tiffs_that_were_never_filled_are_whole(tmp_path: Path, utm_grid: Grid) -> None:
    path = tmp_path / "sparse.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 60, "dtype": "uint8"}
    with rasterio.open(
        path, "w", **profile, crs=utm_grid.crs, transform=utm_grid.transform, SPARSE_OK=True
    ):
        pass
    assert is_whole_tiff(path)


def test_what_is_no_tiff_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "text.tif"
    path.write_text("no raster")
    assert not is_whole_tiff(path)
    # A directory that points to itself must not hang.
    path.write_bytes(b"II" + struct.pack("<HI", 42, 8) + struct.pack("<HI", 0, 8))
    assert is_whole_tiff(path)


def test_folders_with_reviewed_polygons_are_not_replaced(tmp_path: Path) -> None:
    """Whatever wrote them, and wherever in them an analyst keeps the file."""
    folder = tmp_path / "out"
    (folder / "mine").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    frame = gpd.GeoDataFrame(
        {"status": ["unreviewed", "accepted"]},
        geometry=[shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)], crs="EPSG:32654",
    )  # fmt: skip
    frame.to_file(folder / "mine" / "checked.gpkg", layer="any")
    with (
        pytest.raises(OutputError, match="1 of its landslides were reviewed"),
        whole_folder(folder, "run.json", overwrite=True),
    ):
        pass
    frame.assign(status="unreviewed").to_file(folder / "mine" / "checked.gpkg", layer="any")
    with whole_folder(folder, "run.json", overwrite=True) as new:
        (new / "run.json").write_text("{}")
    assert not (folder / "mine").exists()
