"""Where a map is right and wrong, as raster, polygons and picture; the precision-recall curve."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes

from landslip.assess.evaluation import (
    Ground,
    PredictionScores,
    ground_text,
    score_text,
    threshold_text,
)
from landslip.assess.scores import ScoreHistogram
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import areas_m2, write_layers
from landslip.geo.quiet import quietly
from landslip.geo.raster import create_raster, rasterio_window
from landslip.geo.styles import ClassStyle, add_styles, polygon_style, raster_style
from landslip.geo.terrain import middle_steps_m

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TN, TP, FN, FP, NOT_SCORED = 0, 1, 2, 3, 255


@dataclass(frozen=True)
class ErrorClass:
    """One class of an error map."""

    short: str
    """As in tables."""
    words: str
    """As in legends."""
    colour: tuple[int, int, int]
    """Red, green, blue, 0 to 255."""


ERROR_CLASSES: dict[int, ErrorClass] = {
    TN: ErrorClass("TN", "background (TN)", (214, 214, 210)),
    TP: ErrorClass("TP", "found (TP)", (255, 214, 0)),
    FN: ErrorClass("FN", "missed (FN)", (214, 24, 24)),
    FP: ErrorClass("FP", "false alarm (FP)", (28, 72, 214)),
    NOT_SCORED: ErrorClass("not scored", "not scored", (255, 255, 255)),
}
"""Source: Qi et al. 2020, figure 5 (yellow, red, blue)."""

BOTH_RIGHT, FIRST_RIGHT, SECOND_RIGHT, BOTH_WRONG = 0, 1, 2, 3


@dataclass(frozen=True)
class Palette:
    """The classes of a map, and which is shown where several pixels share one of a picture."""

    band: str
    """What the raster shows."""
    classes: dict[int, ErrorClass]
    """By value."""
    by_rank: tuple[int, ...]
    """Values; the last one that is there is shown."""

    def colours(self) -> NDArray[np.uint8]:
        """Red, green, blue of every value, shape (256, 3)."""
        table = np.zeros((256, 3), dtype=np.uint8)
        for value, kind in self.classes.items():
            table[value] = kind.colour
        return table


ERRORS = Palette("errors", ERROR_CLASSES, (NOT_SCORED, TN, TP, FP, FN))


DIFFERENCES = Palette(
    "difference",
    {
        BOTH_RIGHT: ErrorClass("both right", "both right", (214, 214, 210)),
        FIRST_RIGHT: ErrorClass("first right", "only the first right", (230, 120, 0)),
        SECOND_RIGHT: ErrorClass("second right", "only the second right", (0, 130, 110)),
        BOTH_WRONG: ErrorClass("both wrong", "both wrong", (120, 20, 60)),
        NOT_SCORED: ERROR_CLASSES[NOT_SCORED],
    },
    (NOT_SCORED, BOTH_RIGHT, BOTH_WRONG, FIRST_RIGHT, SECOND_RIGHT),
)
"""Of two maps: which of them is right."""

WIDTH_PX, HEIGHT_PX = 2000, 1400
"""Largest map in an error picture (px)."""
ENLARGED_WIDTH_PX, ENLARGED_HEIGHT_PX = 1200, 900
"""Size up to which small maps are enlarged (px)."""
INK, FAINT = "#222222", "#666666"


class ErrorPicture:
    """An error map of any size, gathered window by window into a picture of bounded size.

    An error is never lost: a pixel of the picture that covers several of the map shows a missed
    landslide if there is one, else a false alarm, else a found landslide.
    """

    def __init__(self, grid: Grid, shown: Window, palette: Palette = ERRORS) -> None:
        """Nothing gathered yet.

        Args:
            grid: Where the error map lies.
            shown: The part of it that the picture shows.
            palette: Its classes.
        """
        self._shown = shown
        self._palette = palette
        self._by_rank = np.array(palette.by_rank, dtype=np.uint8)
        self._grid = grid = grid.crop(shown)
        self._width_m, self._height_m = pixel_sides_m(grid)
        self._shape = _picture_shape(grid, self._height_m / self._width_m)
        height, width = self._shape
        self._ranks = np.zeros((min(grid.height, height), min(grid.width, width)), dtype=np.uint8)

    def add(self, window: Window, classes: NDArray[np.uint8]) -> None:
        """Gather the classes of one window, shape (height, width)."""
        inside = window.intersection(self._shown)
        if inside is None:
            return
        classes = classes[inside.relative_to(window).slices]
        window = inside.relative_to(self._shown)
        rank_of = np.zeros(256, dtype=np.uint8)
        rank_of[self._by_rank] = np.arange(len(self._by_rank))
        height, width = self._ranks.shape
        rows = np.arange(window.row, window.row_stop) * height // self._grid.height
        cols = np.arange(window.col, window.col_stop) * width // self._grid.width
        pooled = np.maximum.reduceat(rank_of[classes], _starts(rows), axis=0)
        pooled = np.maximum.reduceat(pooled, _starts(cols), axis=1)
        shown = self._ranks[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        np.maximum(shown, pooled, out=shown)

    def pixels(self) -> NDArray[np.uint8]:
        """The classes as they are shown, shape (height, width)."""
        height, width = self._shape
        rows = np.arange(height) * self._ranks.shape[0] // height
        cols = np.arange(width) * self._ranks.shape[1] // width
        shown: NDArray[np.uint8] = self._by_rank[self._ranks[np.ix_(rows, cols)]]
        return shown

    def write(self, path: Path, *, title: str, subtitle: str) -> None:
        """Write the picture with its title, legend and scale as PNG.

        Args:
            path: Where to write.
            title: First line, bold.
            subtitle: Second line.
        """
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        classes = self.pixels()
        height, width = self._shape
        wide = max(width, 860)
        em = round(wide / 56)  # text of 14 px where a page shows the picture 800 px wide
        note = self._note()
        top, bottom = round(3.6 * em), round((4.2 if note else 2.8) * em)
        page = wide + 2 * em, top + height + bottom
        figure = Figure(figsize=(page[0] / 100, page[1] / 100), dpi=100, facecolor="white")
        left = (page[0] - width) // 2
        place = (left / page[0], bottom / page[1], width / page[0], height / page[1])
        axes = figure.add_axes(place)
        axes.set_axis_off()
        kinds = self._palette.classes
        axes.imshow(self._palette.colours()[classes], interpolation="nearest", aspect="auto")
        axes.add_patch(_frame(axes.transAxes))
        _text(figure, page, em, page[1] - 0.5 * em, title, 1.15 * em, weight="bold", color=INK)
        _text(figure, page, em, page[1] - 2.1 * em, subtitle, em, color=FAINT)
        if note:
            _text(figure, page, em, 1.5 * em, note, 0.85 * em, color=FAINT)
        present = set(np.unique(classes).tolist())
        handles = [
            Patch(facecolor=_hex(kind.colour), edgecolor="#888888", label=kind.words)
            for value, kind in kinds.items()
            if value != NOT_SCORED or value in present
        ]
        handles = [*handles[1:4], handles[0], *handles[4:]]
        legend = figure.legend(
            handles=handles, loc="upper left", ncols=len(handles), frameon=False,
            bbox_to_anchor=(em / page[0], (bottom - 0.55 * em) / page[1]), borderpad=0,
            borderaxespad=0, fontsize=_points(em), handlelength=1.1, handleheight=1.1,
            handletextpad=0.45, columnspacing=1.2, labelcolor=INK,
        )  # fmt: skip
        free = page[0] - 2.5 * em - legend.get_window_extent().x1
        self._draw_scale(figure, page, em, bottom, longest=min(11 * em, max(free, 3 * em)))
        _save(figure, path)

    def _note(self) -> str:
        height, width = self._shape
        factors = self._grid.height / height, self._grid.width / width
        if max(factors) <= 1:
            return ""
        high, across = (f"{max(factor, 1):.2g}" for factor in factors)
        return (
            f"Every pixel of the picture covers {across} × {high} pixels of the map and shows an "
            "error wherever one of them is wrong."
        )

    def _draw_scale(
        self, figure: Figure, page: tuple[int, int], em: int, bottom: int, *, longest: float
    ) -> None:
        from matplotlib.patches import Rectangle

        metres_a_px = self._width_m * self._grid.width / self._shape[1]
        length = _round_length(longest * metres_a_px)
        label = f"{length:g} px" if self._grid.crs is None else _length_text(length)
        long = length / metres_a_px
        right, y = page[0] - em, bottom - 1.25 * em
        bar = Rectangle(
            ((right - long) / page[0], y / page[1]), long / page[0], 0.22 * em / page[1],
            facecolor=INK, edgecolor="none", transform=figure.transFigure,
        )  # fmt: skip
        figure.add_artist(bar)
        _text(
            figure, page, right - long / 2, y - 0.15 * em, label, em, color=INK,
            horizontalalignment="center",
        )  # fmt: skip


def pixel_sides_m(grid: Grid) -> tuple[float, float]:
    """Width and height of the pixel in the middle (m); 1 for pictures without a position."""
    if grid.crs is None:
        return 1.0, 1.0
    return middle_steps_m(grid)


def _picture_shape(grid: Grid, aspect: float) -> tuple[int, int]:
    """Height and width of the picture (px): the ground's shape; enlarged by whole numbers only."""
    if abs(aspect - 1) < 0.02:
        aspect = 1.0
    height, width = grid.height * max(aspect, 1), grid.width * max(1 / aspect, 1)
    scale = min(HEIGHT_PX / height, WIDTH_PX / width)
    if scale > 1:
        scale = max(math.floor(min(ENLARGED_HEIGHT_PX / height, ENLARGED_WIDTH_PX / width)), 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _starts(bins: NDArray[np.int_]) -> NDArray[np.intp]:
    """Where the values of a rising array change, its first place included."""
    return np.flatnonzero(np.diff(bins, prepend=-1))


def _round_length(largest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that is not above `largest`."""
    power = float(10.0 ** math.floor(math.log10(largest)))
    return max(step * power for step in (1, 2, 5) if step == 1 or step * power <= largest)


def _length_text(metres: float) -> str:
    return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


def _points(pixels: float) -> float:
    """Points of text that is `pixels` high, at the 100 px an inch of these pictures."""
    return pixels * 0.72


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _frame(transform: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (0, 0), 1, 1, transform=transform, fill=False, edgecolor="#888888", linewidth=0.8,
        clip_on=False,
    )  # fmt: skip


def _text(
    figure: Figure, page: tuple[int, int], x: float, y: float, text: str, size: float, **style: Any
) -> None:
    # File names may hold dollar signs: they are no formulas.
    figure.text(
        x / page[0], y / page[1], text, fontsize=_points(size), verticalalignment="top",
        parse_math=False, **style,
    )  # fmt: skip


def _save(figure: Figure, path: Path) -> None:
    # Names in scripts that the font lacks come out as boxes; that is no reason to fail.
    with quietly("Glyph .* missing from"):
        figure.savefig(path, format="png")


def write_pr_curve(histogram: ScoreHistogram, threshold: float, path: Path) -> None:
    """Draw precision against recall at every threshold as PNG, over lines of equal F1.

    Args:
        histogram: What was counted.
        threshold: The threshold in use (0 to 1), marked on the curve.
        path: Where to write; callers hand in a name from `output.whole_file`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=100, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision", aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    for f1 in np.arange(1, 10) / 10:
        recall = np.linspace(f1 / (2 - f1), 1, 1000)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="#dddddd", linewidth=0.8, zorder=1)
        axes.annotate(
            f"F1 {f1:.1f}", (1, f1 / (2 - f1)), xytext=(4, 0), textcoords="offset points",
            fontsize=8, color=FAINT, verticalalignment="center", annotation_clip=False,
        )  # fmt: skip
    curve = [counts for _, counts in histogram.curve()]
    points = [(counts.recall, counts.precision) for counts in curve if counts.tp + counts.fp]
    if histogram.landslide.sum() == 0:
        axes.set_title("No landslides in the reference: no curve", loc="left")
        _save(figure, path)
        return
    axes.plot(
        *np.array(points).reshape(-1, 2).T, color="#1c48d6", linewidth=2, zorder=3, clip_on=False
    )
    marks = (
        (threshold, "threshold", "o", 90),
        (histogram.best_threshold(), "best threshold", "*", 150),
    )
    for value, what, marker, size in marks:
        counts = histogram.counts(value)
        if counts.tp + counts.fp == 0:
            continue
        axes.scatter(
            counts.recall, counts.precision, marker=marker, s=size, zorder=4, color="#d61818",
            edgecolor="white", clip_on=False, label=f"{what} {value:.3f}: F1 {counts.f1:.3f}",
        )  # fmt: skip
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    average = f"average precision {histogram.average_precision():.3f}"
    axes.set_title(f"Pixels of the landslide class, {average}", loc="left", fontsize=11, pad=12)
    _save(figure, path)


def error_classes(mapped: NDArray[np.bool_], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where a map is right and wrong: 0 TN, 1 TP, 2 FN, 3 FP, 255 not scored.

    Args:
        mapped: Any shape; True where a landslide was mapped.
        truth: Same shape: 0 background, 1 landslide, 255 not scored.
    """
    class_of = np.full((256, 2), NOT_SCORED, dtype=np.uint8)
    class_of[0] = TN, FP
    class_of[1] = FN, TP
    classes: NDArray[np.uint8] = class_of[truth, mapped.astype(np.uint8)]
    return classes


def difference_classes(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Which of two maps is right: 0 both, 1 the first, 2 the second, 3 none, 255 not scored.

    Args:
        first: Errors of the first map, any shape, as `error_classes` gives them.
        second: Of the second, same shape.
    """
    wrong = [(classes == FN) | (classes == FP) for classes in (first, second)]
    found = np.zeros(first.shape, np.uint8)
    found[wrong[0]] += SECOND_RIGHT
    found[wrong[1]] += FIRST_RIGHT
    found[first == NOT_SCORED] = NOT_SCORED
    return found


class ErrorMap:
    """Where maps are right and wrong, as raster and picture, window by window."""

    def __init__(self, stem: Path, grid: Grid, shown: Window, palette: Palette = ERRORS) -> None:
        """Name the files and open the raster on entering.

        Args:
            stem: Path of the files without their ending.
            grid: Where the errors lie.
            shown: The part of it that the picture shows.
            palette: The classes: those of one map, which get polygons, too, or of two.
        """
        self._stem = stem
        self._grid = grid
        self._palette = palette
        self._picture = ErrorPicture(grid, shown, palette)
        self._polygons = ErrorPolygons(grid) if palette is ERRORS else None
        self._stack = ExitStack()
        self._raster: Any = None

    def __enter__(self) -> ErrorMap:
        self._raster = self._stack.enter_context(
            create_raster(
                self._stem.with_name(f"{self._stem.name}.tif"),
                self._grid,
                bands=[self._palette.band],
                dtype="uint8",
                nodata=NOT_SCORED,
                options={"photometric": "palette"},
            )
        )
        kinds = self._palette.classes
        colours = {value: (*kind.colour, 255) for value, kind in kinds.items()}
        self._raster.write_colormap(1, colours)
        self._raster.update_tags(
            1, **{f"CLASS_{value}": kind.words for value, kind in kinds.items()}
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, window: Window, classes: NDArray[np.uint8]) -> None:
        """Take the classes of one window, shape (height, width)."""
        self._raster.write(classes, 1, window=rasterio_window(window))
        if self._polygons is not None:
            self._polygons.add(window, classes)
        self._picture.add(window, classes)

    def finish(self, title: str, subtitle: str) -> None:
        """Close the raster, write polygons and picture, and how QGIS shows raster and polygons."""
        self._stack.close()
        name, kinds = self._stem.name, self._palette.classes
        styles = {
            value: ClassStyle(kind.words, kind.colour)
            for value, kind in kinds.items()
            if value != NOT_SCORED
        }
        self._stem.with_name(f"{name}.qml").write_text(raster_style(styles), encoding="utf-8")
        if self._polygons is not None:
            path = self._stem.with_name(f"{name}.gpkg")
            write_layers(path, {"errors": self._polygons.frame()})
            by_name = {kinds[value].short: styles[value] for value in (TP, FN, FP)}
            add_styles(path, {"errors": {"landslip": polygon_style("kind", by_name)}})
        self._picture.write(self._stem.with_name(f"{name}.png"), title=title, subtitle=subtitle)


def title_of(scores: PredictionScores) -> str:
    """What the picture of the errors of a map is called."""
    counts = scores.pixels
    shown = scores.name if len(scores.name) <= 32 else f"{scores.name[:31]}…"
    texts = (
        f"{what} {score_text(score)}"
        for what, score in (
            ("precision", counts.precision), ("recall", counts.recall), ("F1", counts.f1)
        )
    )  # fmt: skip
    return f"{shown}:  {'  '.join(texts)}"


def subtitle_of(scores: PredictionScores, ground: Ground) -> str:
    """The line below it."""
    at = "" if scores.threshold is None else f"threshold {threshold_text(scores.threshold)}, "
    return f"{at}{ground_text(ground)}"


class ErrorPolygons:
    """Errors and hits as polygons along pixel edges, gathered window by window."""

    def __init__(self, grid: Grid) -> None:
        """Nothing gathered yet."""
        self._grid = grid
        self._whole: dict[int, list[Any]] = {TP: [], FN: [], FP: []}
        self._cut: dict[int, list[Any]] = {TP: [], FN: [], FP: []}

    def add(self, window: Window, classes: NDArray[np.uint8]) -> None:
        """Take the classes of one window, shape (height, width)."""
        wanted = (classes == TP) | (classes == FN) | (classes == FP)
        if not wanted.any():
            return
        # In pixels: whole numbers, so that pieces fit together exactly.
        at = Affine.translation(window.col, window.row)
        for outline, value in shapes(classes, mask=wanted, connectivity=4, transform=at):
            piece = shapely.Polygon(outline["coordinates"][0], outline["coordinates"][1:])
            into = self._cut if self._is_cut(piece, window) else self._whole
            into[int(value)].append(piece)

    def _is_cut(self, piece: Any, window: Window) -> bool:
        left, top, right, bottom = piece.bounds
        return bool(
            (left == window.col and left > 0)
            or (top == window.row and top > 0)
            or (right == window.col_stop and right < self._grid.width)
            or (bottom == window.row_stop and bottom < self._grid.height)
        )

    def frame(self) -> Any:
        """One row a polygon: `kind` (TP, FN or FP) and `area_m2`; from north to south."""
        import geopandas as gpd

        kinds: list[str] = []
        found: list[Any] = []
        for value, whole in self._whole.items():
            joined = shapely.get_parts(shapely.union_all(self._cut[value])).tolist()
            pieces = sorted([*whole, *joined], key=lambda piece: (piece.bounds[1], *piece.bounds))
            kinds += [ERROR_CLASSES[value].short] * len(pieces)
            found += pieces
        placed = shapely.transform(np.array(found, dtype=object), self._to_crs)
        areas = areas_m2(placed, self._grid.crs)
        return gpd.GeoDataFrame(
            {"kind": np.array(kinds, dtype=object), "area_m2": areas},
            geometry=placed,
            crs=self._grid.crs,
        )

    def _to_crs(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d, e, f = self._grid.transform[:6]
        placed: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + (c, f)
        return placed
