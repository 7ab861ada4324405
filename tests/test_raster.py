import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import transform as warp_points

from landslip.geo.errors import BandError, RasterError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import (
    FileScene,
    Raster,
    Scene,
    create_raster,
    fingerprint,
    open_dataset,
    rasterio_window,
    read_reflected,
)
from landslip.geo.windows import cover

WriteRaster = Callable[..., Path]


def read_all(scene: Scene) -> Raster:
    return scene.read(scene.grid.window, scene.bands)


def raster(grid: Grid, bands: tuple[str, ...] = ("nir", "red")) -> Raster:
    values = np.arange(len(bands) * grid.height * grid.width, dtype=np.uint16)
    return Raster(
        values.reshape(-1, *grid.shape), np.ones(grid.shape, dtype=bool), tuple(bands), grid
    )


# Raster in memory


def test_a_raster_checks_itself(utm_grid: Grid) -> None:
    good = raster(utm_grid)
    with pytest.raises(UsageError, match="ask for values"):
        Raster(good.values[:1], good.valid, good.bands, utm_grid)
    with pytest.raises(UsageError, match="ask for values"):
        Raster(good.values, good.valid[:-1], good.bands, utm_grid)
    with pytest.raises(UsageError, match="expected bool"):
        Raster(good.values, good.valid.astype(np.uint8), good.bands, utm_grid)
    with pytest.raises(BandError, match="nir, nir"):
        Raster(good.values, good.valid, ("nir", "nir"), utm_grid)


def test_a_raster_is_a_scene(utm_grid: Grid) -> None:
    scene = raster(utm_grid)
    assert isinstance(scene, Scene)
    part = scene.read(Window(2, 3, 4, 5), ["red", "nir"])
    assert part.bands == ("red", "nir")
    assert (part.values == scene.values[::-1, 2:6, 3:8]).all()
    assert part.grid == utm_grid.crop(Window(2, 3, 4, 5))


def test_undefined_indices_are_not_valid(utm_grid: Grid) -> None:
    values = np.ones((2, *utm_grid.shape), dtype=np.float32)
    values[:, 0, 0] = 0
    scene = Raster(values, np.ones(utm_grid.shape, dtype=bool), ("nir", "red"), utm_grid)
    part = scene.read(Window(0, 0, 1, 2), ["ndvi"])
    assert part.valid.tolist() == [[False, True]]
    assert part.values.tolist() == [[[0, 0]]]


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(39, 0, 2, 2), Window(0, 60, 1, 1)])
def test_windows_beyond_the_grid_are_refused(
    utm_grid: Grid, utm_scene: Path, window: Window
) -> None:
    for scene in (raster(utm_grid), FileScene.open(utm_scene)):
        with pytest.raises(UsageError, match="beyond the grid of 40 x 60 px"):
            scene.read(window, ["nir"])


# Names


def test_descriptions_name_bands_and_colour_interpretation_never_does(
    write_raster: WriteRaster,
) -> None:
    path = write_raster(
        "rgb.tif", np.ones((3, 40, 60), np.uint8), bands=["NIR", "red", "green"], photometric="RGB"
    )
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[0] == ColorInterp.red
    assert FileScene.open(path).bands == ("nir", "red", "green")


def test_undescribed_bands_are_refused_whatever_their_colours(write_raster: WriteRaster) -> None:
    path = write_raster("rgb.tif", np.ones((3, 40, 60), np.uint8), photometric="RGB")
    with pytest.raises(BandError, match=r"does not name its 3 bands\. Name them in order with --b"):
        FileScene.open(path)
    assert FileScene.open(path, unnamed=True).bands == ("band1", "band2", "band3")


def test_blank_descriptions_are_no_names(write_raster: WriteRaster) -> None:
    path = write_raster("blank.tif", np.ones((2, 40, 60), np.uint8), bands=["nir", "  "])
    with pytest.raises(BandError, match="does not name"):
        FileScene.open(path)


def test_unnamed_bands_still_take_what_is_known(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", np.ones((3, 40, 60), np.uint16), bands=["B8", "Red", None])
    assert FileScene.open(path, unnamed=True).bands == ("B8", "red", "band3")
    known = FileScene.open(path, unnamed=True, sensor="sentinel-2")
    assert known.bands == ("nir", "red", "band3")


def test_bands_can_be_named_left_out_and_prefixed(utm_scene: Path) -> None:
    scene = FileScene.open(
        utm_scene, bands=["-", "B4", "swir1"], sensor="sentinel-2", prefix="pre_"
    )
    assert scene.bands == ("pre_red", "pre_swir1")
    assert scene.read(Window(5, 0, 1, 1), ["pre_swir1"]).values[0, 0, 0] == 20_501


@pytest.mark.parametrize(
    ("bands", "text"),
    [
        (["nir", "red"], "it has 3, --bands names 2"),
        (["nir", "red", "NIR"], "two of its bands are called 'nir'"),
        (["nir", "", "red"], "a name is empty"),
        (["-", "-", "-"], "all its 3 bands are left out"),
        (["nir", "red", "B3"], "--sensor"),
    ],
)
def test_wrong_names_are_refused(utm_scene: Path, bands: list[str], text: str) -> None:
    with pytest.raises(BandError, match=text):
        FileScene.open(utm_scene, bands=bands)


# Validity


def test_declared_nodata_in_any_band_asked_for_is_not_valid(utm_scene: Path) -> None:
    scene = FileScene.open(utm_scene)
    everything = read_all(scene)
    assert not everything.valid[:4, :5].any()
    assert not everything.valid[:, 59].any()
    assert everything.valid.sum() == 40 * 60 - 20 - 40
    assert (everything.values[:, ~everything.valid] == 0).all()
    red = scene.read(scene.grid.window, ["red"])
    assert red.valid[:, 59].all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_alpha_is_validity_beside_any_number_of_bands(
    write_raster: WriteRaster, count: int
) -> None:
    values = np.full((count + 1, 40, 60), 7, np.uint16)
    values[-1, :10] = 0
    path = write_raster("alpha.tif", values)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.undefined] * count + [ColorInterp.alpha]
    scene = FileScene.open(path, unnamed=True)
    assert len(scene.bands) == count
    assert read_all(scene).valid.mean() == 0.75
    finer = FileScene.open(path, unnamed=True, grid=scene.grid.resampled(5))
    assert read_all(finer).valid.mean() == 0.75


def test_alpha_can_be_named_among_the_bands(write_raster: WriteRaster) -> None:
    path = write_raster("rgba.tif", np.ones((4, 40, 60), np.uint8))
    for last in ("-", "alpha"):
        scene = FileScene.open(path, bands=["red", "green", "blue", last])
        assert scene.bands == ("red", "green", "blue")
    assert FileScene.open(path, bands=["red", "green", "blue"]).bands == ("red", "green", "blue")


def test_a_band_that_is_marked_as_transparency_by_mistake_is_told(
    write_raster: WriteRaster,
) -> None:
    # rasterio and GDAL mark the fourth of four 8-bit bands so.
    path = write_raster(
        "four.tif", np.zeros((4, 40, 60), np.uint8), bands=["red", "green", "blue", "nir"]
    )
    with pytest.raises(BandError, match="band 4, 'nir', is marked as transparency"):
        FileScene.open(path)
    other = write_raster("other.tif", np.zeros((4, 40, 60), np.uint8))
    with pytest.raises(BandError, match="band 4, 'nir', is marked as transparency"):
        FileScene.open(other, bands=["red", "green", "blue", "nir"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_mask_bands_are_validity(write_raster: WriteRaster, count: int) -> None:
    path = write_raster("masked.tif", np.full((count, 40, 60), 7, np.uint16))
    mask = np.full((40, 60), 255, np.uint8)
    mask[:10] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    scene = FileScene.open(path, unnamed=True)
    assert read_all(scene).valid.mean() == 0.75
    finer = FileScene.open(path, unnamed=True, grid=scene.grid.resampled(5))
    assert read_all(finer).valid.mean() == 0.75


@pytest.mark.parametrize("nodata", [None, float("nan"), -9999])
def test_nan_and_infinity_are_not_valid(write_raster: WriteRaster, nodata: float | None) -> None:
    values = np.ones((2, 40, 60), np.float32)
    values[0, 0, 0], values[1, 0, 1], values[1, 1, 0] = np.nan, np.inf, -np.inf
    path = write_raster("nan.tif", values, bands=["nir", "red"], nodata=nodata)
    found = read_all(FileScene.open(path))
    assert (~found.valid).sum() == 3
    assert np.isfinite(found.values).all()


# Warping

TURNED = Affine.translation(3.3, 4.7) * Affine.rotation(11) * Affine.scale(0.77)
TARGETS = {
    "shifted": Grid(
        CRS.from_epsg(32648), Affine(10, 0, 500_033, 0, -10, 3_799_953), 150, 170
    ),
    "turned": Grid(
        CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000) * TURNED, 150, 170
    ),
    "coarse": Grid(
        CRS.from_epsg(32648), Affine(37, 0, 500_000, 0, -37, 3_800_000), 60, 60
    ),
    "degrees": Grid(CRS.from_epsg(4326), Affine(8e-5, 0, 105.0005, 0, -8e-5, 34.3395), 150, 160),
}  # fmt: skip


@pytest.fixture
def noise(write_raster: WriteRaster) -> Path:
    """Noise (uint16; nir, red) on 200 x 210 pixels of `utm_grid`'s frame, nodata 0 in patches."""
    grid = Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000), 200, 210)
    values = np.random.default_rng(0).integers(100, 9999, (2, 200, 210), dtype=np.uint16)
    values[:, 50:70, 60:80] = 0
    values[0, 100:110] = 0
    return write_raster("noise.tif", values, bands=["nir", "red"], grid=grid, nodata=0)


@pytest.mark.parametrize("how", [Resampling.bilinear, Resampling.nearest, Resampling.average])
@pytest.mark.parametrize("target", TARGETS)
def test_warped_windows_equal_the_whole_bit_for_bit(
    noise: Path, target: str, how: Resampling
) -> None:
    grid = TARGETS[target]
    whole = read_all(FileScene.open(noise, grid=grid, resampling=how))
    for core in (37, 128):
        scene = FileScene.open(noise, grid=grid, resampling=how)
        for window in reversed(list(cover(grid, core))):
            part = scene.read(window, scene.bands)
            rows, cols = window.slices
            assert (part.values == whole.values[:, rows, cols]).all()
            assert (part.valid == whole.valid[rows, cols]).all()


@pytest.mark.parametrize("target", ["shifted", "turned", "degrees"])
def test_warping_is_bilinear_interpolation(noise: Path, target: str) -> None:
    from scipy.ndimage import map_coordinates

    grid = TARGETS[target]
    source = FileScene.open(noise)
    found = read_all(FileScene.open(noise, grid=grid))
    rows, cols = np.indices(grid.shape) + 0.5
    points = [grid.transform * point for point in zip(cols.ravel(), rows.ravel(), strict=True)]
    xs, ys = zip(*points, strict=True)
    assert grid.crs is not None
    xs, ys = warp_points(grid.crs, source.grid.crs, xs, ys)
    back = ~source.grid.transform
    places = np.array([back * point for point in zip(xs, ys, strict=True)]).T[::-1] - 0.5
    known = read_all(source)
    near = map_coordinates(known.valid.astype(float), places, order=1, cval=0) > 1 - 1e-9
    near = near.reshape(grid.shape)
    assert near.mean() > 0.5
    assert found.valid[near].all()
    for plane, expected in zip(found.values, known.values.astype(float), strict=True):
        truth = map_coordinates(expected, places, order=1).reshape(grid.shape)
        assert np.abs(plane - truth)[near].max() <= 0.51


@pytest.mark.parametrize("nodata", [0, None])
def test_ground_beyond_a_warped_file_is_not_valid(
    write_raster: WriteRaster, utm_grid: Grid, nodata: int | None
) -> None:
    path = write_raster(
        "small.tif", np.full((2, 40, 60), 5, np.uint8), bands=["nir", "red"], nodata=nodata
    )
    moved = utm_grid.crop(Window(20, 0, 40, 60))
    found = read_all(FileScene.open(path, grid=moved))
    assert found.valid[:20].all()
    assert not found.valid[21:].any()
    assert (found.values[:, found.valid] == 5).all()


def test_nodata_never_seeps_into_warped_values(noise: Path, utm_grid: Grid) -> None:
    found = read_all(FileScene.open(noise, grid=TARGETS["turned"]))
    assert not found.valid.all()
    assert found.values[:, found.valid].min() >= 100


def test_pictures_without_position_warp_in_their_own_plane(plain_scene: Path) -> None:
    scene = FileScene.open(plain_scene)
    assert scene.grid.crs is None
    finer = FileScene.open(plain_scene, grid=scene.grid.resampled(0.5))
    found = read_all(finer)
    assert found.values.shape == (3, 80, 120)
    assert found.valid.all()


def test_a_position_is_never_made_up(plain_scene: Path, utm_grid: Grid, utm_scene: Path) -> None:
    with pytest.raises(RasterError, match="one of the two has no coordinate reference system"):
        FileScene.open(plain_scene, grid=utm_grid)
    with pytest.raises(RasterError, match="one of the two has no coordinate reference system"):
        FileScene.open(utm_scene, grid=FileScene.open(plain_scene).grid)


# Reflection


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(*[st.integers(0, 12)] * 4),
)
def test_reflected_reading_is_that_of_numpy(
    height: int, width: int, margins: tuple[int, int, int, int]
) -> None:
    scene = raster(Grid(None, Affine.identity(), height, width))
    top, bottom, left, right = margins
    window = Window(-top, -left, height + top + bottom, width + left + right)
    found = read_reflected(scene, window, ("red", "nir"))
    pad = ((0, 0), (top, bottom), (left, right))
    assert (found.values == np.pad(scene.values[::-1], pad, mode="reflect")).all()
    assert found.grid == scene.grid.crop(window)


def test_reflected_reading_at_a_corner_of_a_file(utm_scene: Path) -> None:
    scene = FileScene.open(utm_scene)
    whole = read_all(scene)
    padded = np.pad(whole.values, ((0, 0), (8, 8), (8, 8)), mode="reflect")
    valid = np.pad(whole.valid, 8, mode="reflect")
    found = read_reflected(scene, Window(-8, 50, 16, 18), scene.bands)
    assert (found.values == padded[:, :16, 58:]).all()
    assert (found.valid == valid[:16, 58:]).all()


def test_windows_outside_have_nothing_to_mirror(utm_scene: Path) -> None:
    with pytest.raises(UsageError, match="outside the scene"):
        read_reflected(FileScene.open(utm_scene), Window(40, 0, 3, 3), ["nir"])


# Threads and files


def test_threads_that_come_and_go_leave_no_handles(
    write_raster: WriteRaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every epoch of a training reads with threads of its own.
    path = write_raster("s.tif", np.ones((1, 40, 60), dtype=np.uint8))
    scene = FileScene.open(path, unnamed=True)
    opened = []

    def counted(path: str) -> Any:
        opened.append(path)
        return open_dataset(path)

    monkeypatch.setattr("landslip.geo.raster.open_dataset", counted)
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: read_all(scene), range(4)))
    scene.close()
    assert 1 <= len(opened) <= 2


def test_threads_read_the_same(noise: Path) -> None:
    grid = TARGETS["degrees"]
    whole = read_all(FileScene.open(noise, grid=grid))
    scene = FileScene.open(noise, grid=grid)
    windows = list(cover(grid, 32)) * 3
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda window: scene.read(window, scene.bands), windows))
    for window, part in zip(windows, parts, strict=True):
        rows, cols = window.slices
        assert (part.values == whole.values[:, rows, cols]).all()
    scene.close()


def test_a_closed_scene_opens_again(utm_scene: Path) -> None:
    scene = FileScene.open(utm_scene)
    before = read_all(scene)
    scene.close()
    scene.close()
    assert (read_all(scene).values == before.values).all()


SERVER = """
import http.server, pathlib, sys

class Server(http.server.SimpleHTTPRequestHandler):
    def answer(self, body):
        path = pathlib.Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        start, stop, status = 0, len(content), 200
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last) + 1, len(content)), 206
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(content[start:stop])

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *args):
        pass

def handler(*args):
    return Server(*args, directory=sys.argv[1])

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
# A process of its own: rasterio.open holds Python's lock, so a thread could never answer it.


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address at which a local server gives the files of the test's folder, whole or in part."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()


def test_scenes_are_read_over_http(address: str, utm_scene: Path) -> None:
    here = read_all(FileScene.open(utm_scene))
    there = FileScene.open(f"/vsicurl/{address}/{utm_scene.name}")
    assert (read_all(there).values == here.values).all()
    known = fingerprint(there.path)
    assert known["etag"] == '"one"'
    assert known["bytes"] == str(utm_scene.stat().st_size)
    there.close()


def test_missing_scenes_over_http_are_refused(address: str) -> None:
    with pytest.raises(RasterError, match=r"no_such\.tif"):
        FileScene.open(f"/vsicurl/{address}/no_such.tif")


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"no_such\.tif: there is no such file"):
        FileScene.open(tmp_path / "no_such.tif")


def test_files_that_are_no_rasters_are_told(tmp_path: Path) -> None:
    path = tmp_path / "text.tif"
    path.write_text("no raster")
    for wrong in (path, tmp_path):
        with pytest.raises(RasterError, match="it is not a raster that GDAL can read"):
            FileScene.open(wrong)


def test_truncated_files_are_told(noise: Path, tmp_path: Path) -> None:
    content = noise.read_bytes()
    for share in (0.05, 0.5, 0.99):
        path = tmp_path / f"short{share}.tif"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(RasterError, match="damaged or cut short"):
            read_all(FileScene.open(path, grid=TARGETS["shifted"]))
        with pytest.raises(RasterError, match="damaged or cut short"):
            read_all(FileScene.open(path))


def test_fingerprints_follow_the_content(utm_scene: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tif"
    shutil.copy(utm_scene, copy)
    assert fingerprint(copy)["sha256"] == fingerprint(utm_scene)["sha256"]
    with copy.open("ab") as file:
        file.write(b"\0")
    assert fingerprint(copy)["sha256"] != fingerprint(utm_scene)["sha256"]
    assert fingerprint("/vsis3/bucket/scene.tif") == {"path": "/vsis3/bucket/scene.tif"}


# Writing


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_written_bands_come_back(tmp_path: Path, utm_grid: Grid, count: int, dtype: str) -> None:
    names = [f"name{chr(97 + number)}" for number in range(count)]
    values: NDArray[Any] = np.zeros((count, *utm_grid.shape), dtype=dtype)
    values[:] = np.arange(count)[:, None, None]
    path = tmp_path / "written.tif"
    with create_raster(path, utm_grid, bands=names, dtype=dtype) as out:
        for window in cover(utm_grid, 17):
            rows, cols = window.slices
            out.write(values[:, rows, cols], window=rasterio_window(window))
    scene = FileScene.open(path)
    found = read_all(scene)
    assert scene.bands == tuple(names)
    assert scene.grid == utm_grid
    assert found.valid.all()
    assert (found.values == values).all()
