"""What is done with one window of a scene, in a thread of this process or on another machine."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from landslip.geo.errors import MissingExtraError, UsageError
from landslip.geo.grid import Window
from landslip.geo.inventory import Area
from landslip.geo.parallel import default_threads, in_order
from landslip.geo.probability import encode
from landslip.geo.raster import Scene
from landslip.geo.scene import COVERED, NODATA, OBSERVED, StackedScene
from landslip.geo.writing import CACHE_BYTES
from landslip.learn.card import load_model
from landslip.learn.device import Compute
from landslip.learn.ensemble import Ensemble, Member, mean_and_spread
from landslip.mapping.layout import Layout
from landslip.prepare.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor, device

READERS = 2
"""Threads that read ahead of a processor; a GPU is faster than they are."""
GPU_READERS = 8
"""Most threads that read ahead of a GPU."""
WAIT_S = 60.0
"""Time that a cluster has to show a worker (s)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker must know to map any window of a scene."""

    scene: Scene
    models: tuple[str, ...]
    """Model files."""
    scalings: tuple[Scaling, ...]
    """Whose numbers each model is shown."""
    device: str
    precision: str
    tta: bool
    scales: tuple[float, ...]
    layout: Layout
    as_float: bool
    covered: Area | None
    """Ground that an earlier scene shows."""

    def ensemble(self) -> Ensemble:
        """The models, loaded and placed on the device."""
        compute = Compute.choose(self.device, self.precision)
        members = []
        for path, scaling in zip(self.models, self.scalings, strict=True):
            card, network = load_model(path)
            members.append(Member(card, compute.place(network), scaling))
        return Ensemble(members, compute, tta=self.tta, scales=self.scales)


@dataclass(frozen=True, eq=False)
class SeenWindow:
    """What the models are shown of a window."""

    core: Window
    codes: NDArray[np.uint8]
    """Of the ground in the core (H, W)."""
    images: list[Tensor] | None
    """One a model, with the halo, on the device; None where no pixel of the core is usable."""


@dataclass(frozen=True, eq=False)
class ScoredWindow:
    """What the models say of the core of a window."""

    core: Window
    codes: NDArray[np.uint8]
    """Of the ground (H, W)."""
    scores: list[Tensor] | None
    """One (H, W) a model, on the device, which may still compute it; None where no pixel is
    usable."""


@dataclass(frozen=True, eq=False)
class MappedWindow:
    """What is known of the core of a window."""

    core: Window
    planes: dict[str, NDArray[Any]]
    """`probability` and, of several models, `uncertainty`, as they are written; `ground` codes."""


class WindowMapper:
    """From the core of a window to its probabilities, in three steps that may overlap.

    Any number of threads may take any step; one computes at a time, which takes all processors or
    the device.
    """

    def __init__(self, job: Job, ensemble: Ensemble | None = None) -> None:
        """Take the models of the job, or `ensemble` where they are loaded already."""
        self._job = job
        self._ensemble = ensemble or job.ensemble()
        self._turn = threading.Lock()
        self.readers = readers_of(self._ensemble.device)
        scene = job.scene
        # What lies beyond the area of interest is not mapped, but seen.
        self._seen = scene.whole() if isinstance(scene, StackedScene) else scene

    def __call__(self, core: Window) -> MappedWindow:
        """Map one core; windows without usable ground cost nothing."""
        return self.encode(self.compute(self.read(core)))

    def read(self, core: Window) -> SeenWindow:
        """The first step: what is seen of a core and around it."""
        layout, codes = self._job.layout, self._excluded(core)
        images = None
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            if (codes == OBSERVED).any():
                around = layout.around(core)
                inside = core.relative_to(around).slices
                images, valid = self._ensemble.read(self._seen, around)
                codes[(codes == OBSERVED) & ~valid[inside]] = NODATA
        if images is None or not (codes == OBSERVED).any():
            return SeenWindow(core, codes, None)
        return SeenWindow(core, codes, self._ensemble.place(images))

    def compute(self, seen: SeenWindow) -> ScoredWindow:
        """The second step: what the models say."""
        if seen.images is None:
            return ScoredWindow(seen.core, seen.codes, None)
        inside = seen.core.relative_to(self._job.layout.around(seen.core)).slices
        with self._turn:
            scores = self._ensemble.launch(seen.images)
        return ScoredWindow(seen.core, seen.codes, [plane[0][inside] for plane in scores])

    def encode(self, scored: ScoredWindow) -> MappedWindow:
        """The third step: the rasters as they are written."""
        codes = scored.codes
        scores = (None, None) if scored.scores is None else mean_and_spread(scored.scores)
        planes: dict[str, NDArray[Any]] = {"ground": codes}
        for name, found in zip(score_planes(len(self._job.models)), scores, strict=False):
            known = np.zeros(codes.shape, np.float32) if found is None else found
            masked = np.where(codes == OBSERVED, known, np.nan).astype(np.float32)
            planes[name] = masked if self._job.as_float else encode(masked)
        return MappedWindow(scored.core, planes)

    def _excluded(self, core: Window) -> NDArray[np.uint8]:
        """Codes of the ground that is left out whatever it shows."""
        job = self._job
        codes = (
            job.scene.excluded(core)
            if isinstance(job.scene, StackedScene)
            else np.full((core.height, core.width), OBSERVED, dtype=np.uint8)
        )
        if job.covered is not None:
            codes[(codes == OBSERVED) & job.covered.read(core)] = COVERED
        return codes


def map_ahead(mapper: WindowMapper, cores: Iterable[Window]) -> Generator[MappedWindow, None, None]:
    """Cores as they are mapped, in their order.

    The caller's thread computes, while others read what comes next and encode what came before. A
    GPU is given the next window before it has finished one.
    """
    with (
        closing(in_order(mapper.read, cores, mapper.readers)) as read,
        closing(in_order(mapper.encode, map(mapper.compute, read), 1)) as mapped,
    ):
        yield from mapped


def readers_of(where: device) -> int:
    """Threads that read ahead of a device."""
    return (
        READERS if where.type == "cpu" else min(max(default_threads() // 2, READERS), GPU_READERS)
    )


def score_planes(models: int) -> tuple[str, ...]:
    """Names of the rasters that so many models give."""
    return ("probability", "uncertainty") if models > 1 else ("probability",)


class RemoteMapper:
    """A job as workers elsewhere are sent it: they open the scene and load the models once."""

    def __init__(self, job: Job) -> None:
        """Pack the job."""
        self._packed = pickle.dumps(job)

    def __call__(self, core: Window) -> MappedWindow:
        """Map one core."""
        return _mapper_of(self._packed)(core)


@lru_cache(maxsize=1)
def _mapper_of(packed: bytes) -> WindowMapper:
    return WindowMapper(pickle.loads(packed))


@contextmanager
def cluster_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """The workers of a Dask cluster as an executor, and how many windows they map at once.

    Windows of workers that are lost are mapped again by others.

    Args:
        address: Of the scheduler: tcp://HOST:PORT.

    Raises:
        MissingExtraError: dask.distributed is not installed.
        UsageError: No scheduler, or no worker, answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError(
            "Cannot use --cluster: dask.distributed is not installed. "
            "Install it with pip install 'landslip[cluster]'."
        ) from error
    try:
        client = Client(address, timeout=WAIT_S)
        client.wait_for_workers(1, timeout=WAIT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(
            f"Cannot reach a Dask cluster at {address}: no scheduler with a worker answers. Start "
            "dask scheduler and dask worker, and check the address."
        ) from error
    with client:
        yield client.get_executor(pure=False, retries=3), sum(client.nthreads().values())
