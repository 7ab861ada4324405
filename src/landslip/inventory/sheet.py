"""One sheet of figures of an inventory: how many, how large, where, and on how much ground."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landslip.assess.frequency import FEWEST, draw_frequency_area, frequency_area
from landslip.assess.objects import SIZE_TEXTS
from landslip.assess.report import Section, write_report
from landslip.geo.errors import InventoryError
from landslip.geo.inventory import LAYER, OBSERVED, has_status, layer_names
from landslip.inventory.geopackage import BY_CLASS, DROPPED

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 10
"""Landslides that are listed."""
LISTED = {
    "id": ("Id", "{:.0f}"),
    "area_m2": ("Area (m²)", "{:,.0f}"),
    "length_m": ("Length (m)", "{:,.0f}"),
    "probability_mean": ("Mean probability", "{:.2f}"),
    "relief_m": ("Relief (m)", "{:,.0f}"),
    "slope_mean_deg": ("Slope (°)", "{:.0f}"),
    "lat": ("Latitude", "{:.5f}"),
    "lon": ("Longitude", "{:.5f}"),
    "flags": ("Flags", "{}"),
}
"""Columns of that list, where the inventory has them: heading and form."""
READ = (*LISTED, "size_class", "probability_class", "touches_edge", "touches_unobserved", "status")


def write_sheet(inventory: Path, out: Path, *, title: str = "", overwrite: bool = False) -> None:
    """Write the figures of a GeoPackage that landslip made as a page that can be printed.

    Rejected landslides do not count. Density is told a km2 of observed ground.

    Args:
        inventory: GeoPackage with the layers `landslides` and `observed`.
        out: HTML file to write.
        title: Above it; empty: the name of the file.
        overwrite: Replace an older page.

    Raises:
        InventoryError: The file is no inventory of landslip.
        OutputError: `out` exists, or cannot be written.
    """
    frame = _read(inventory, LAYER)
    observed = _read(inventory, OBSERVED, columns=("area_m2",))
    if frame is None or observed is None or "area_m2" not in frame:
        raise InventoryError(
            f"Cannot make a sheet of {inventory}: it lacks the layer '{LAYER}' with areas, or the "
            f"layer '{OBSERVED}'. Name a GeoPackage that landslip wrote."
        )
    frame = frame[~has_status(frame, ["rejected"])]
    dropped = _read(inventory, DROPPED, columns=("area_m2",))
    with tempfile.TemporaryDirectory(prefix="landslip") as name:
        sections = [
            Section(
                heading="Figures",
                table=_figures(frame, float(observed["area_m2"].sum()) / 1e6, dropped),
            ),
            *_pictures(frame, Path(name)),
            *_tables(frame),
        ]
        write_report(out, title or f"Landslides of {inventory.name}", sections, overwrite=overwrite)


def _read(path: Path, layer: str, columns: tuple[str, ...] = READ) -> pd.DataFrame | None:
    """Columns of a layer, those that there are; None without the layer."""
    import pyogrio

    if layer not in layer_names(str(path)):
        return None
    there = [name for name in columns if name in pyogrio.read_info(path, layer=layer)["fields"]]
    frame: pd.DataFrame = pyogrio.read_dataframe(
        path, layer=layer, columns=there, read_geometry=False
    )
    return frame


def _figures(
    frame: pd.DataFrame, observed_km2: float, dropped: pd.DataFrame | None
) -> list[list[str]]:
    areas = frame["area_m2"].to_numpy()
    ground = max(observed_km2, 1e-12)
    rows = [
        ["Landslides", f"{len(areas):,}"],
        ["Total area", f"{areas.sum():,.0f} m²"],
        ["Observed ground", f"{observed_km2:,.3f} km²"],
        ["Landslides a km² of observed ground", f"{len(areas) / ground:,.2f}"],
        ["Share of observed ground", f"{areas.sum() / 1e6 / ground:.3%}"],
    ]
    if len(areas):
        rows += [
            ["Median area", f"{np.median(areas):,.1f} m²"],
            ["Smallest and largest", f"{areas.min():,.1f} and {areas.max():,.0f} m²"],
        ]
    if "touches_edge" in frame:
        cut = _is_cut(frame)
        rows.append(["Cut by the edge of observed ground", f"{int(cut.sum()):,}"])
    if "flags" in frame:
        flagged = frame["flags"].fillna("") != ""
        rows.append(["Flagged by a rule", f"{int(flagged.sum()):,}"])
    if dropped is not None and len(dropped):
        area = dropped["area_m2"].sum()
        rows.append(["Moved to the layer 'dropped'", f"{len(dropped):,} ({area:,.0f} m²)"])
    return [["", ""], *rows]


def _is_cut(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Landslides whose true size nobody knows."""
    beside: NDArray[np.bool_] = (frame["touches_unobserved"].fillna("") != "").to_numpy()
    return np.asarray(frame["touches_edge"].to_numpy(dtype=bool) | beside)


def _pictures(frame: pd.DataFrame, folder: Path) -> list[Section]:
    """Where landslides lie, and how often they have which size."""
    sections = []
    if {"lon", "lat"} <= set(frame) and len(frame):
        _draw_places(frame, folder / "places.png")
        sections.append(
            Section(
                heading="Where they lie",
                picture=folder / "places.png",
                caption="Points grow with the area. WGS 84.",
            )
        )
    whole = ~_is_cut(frame) if "touches_edge" in frame else np.ones(len(frame), dtype=bool)
    areas = frame["area_m2"].to_numpy()[whole]
    if len(areas) >= FEWEST:
        found = frequency_area(areas[areas > 0], cut_by_edge=int((~whole).sum()), draws=0)
        draw_frequency_area(found, folder / "sizes.png")
        sections.append(
            Section(
                heading="How often which size",
                paragraphs=["Without landslides that the edge of observed ground cuts."],
                picture=folder / "sizes.png",
            )
        )
    return sections


def _draw_places(frame: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    lat = frame["lat"].to_numpy()
    figure = Figure(figsize=(7, 5.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    size = 2 + 60 * np.sqrt(frame["area_m2"] / frame["area_m2"].max())
    colours = "#9a3412"
    if "probability_class" in frame:
        hexes = {
            name: "#{:02x}{:02x}{:02x}".format(*style.colour) for name, style in BY_CLASS.items()
        }
        colours = frame["probability_class"].map(hexes).fillna("#888888").tolist()
        for name, style in BY_CLASS.items():
            axes.scatter(
                [], [], s=30, color=hexes[name], label=style.words, edgecolors="#777777",
                linewidths=0.4,
            )  # fmt: skip
        figure.legend(frameon=False, loc="outside lower center", ncols=len(BY_CLASS))
    axes.scatter(frame["lon"], lat, s=size, c=colours, edgecolors="#777777", linewidths=0.2)
    axes.set_aspect(1 / max(float(np.cos(np.radians(lat.mean()))), 0.05))
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="x", rotation=30)
    axes.set(xlabel="Longitude (°)", ylabel="Latitude (°)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _tables(frame: pd.DataFrame) -> list[Section]:
    sections = []
    if "size_class" in frame and len(frame):
        counts: Mapping[str, int] = frame["size_class"].value_counts().to_dict()
        areas: Mapping[str, float] = frame.groupby("size_class")["area_m2"].sum().to_dict()
        total = max(float(frame["area_m2"].sum()), 1e-12)
        rows = [
            [text, f"{counts.get(text, 0):,}", f"{areas.get(text, 0) / total:.1%}"]
            for text in SIZE_TEXTS
        ]
        sections.append(
            Section(heading="By size", table=[["Area", "Landslides", "Share of the area"], *rows])
        )
    largest = frame.nlargest(LARGEST, "area_m2")
    names = [name for name in LISTED if name in frame]
    if len(largest):
        table = [
            [_cell(LISTED[name][1], row[name]) for name in names] for _, row in largest.iterrows()
        ]
        sections.append(
            Section(
                heading=f"The largest {len(largest)}",
                table=[[LISTED[name][0] for name in names], *table],
            )
        )
    return sections


def _cell(form: str, value: Any) -> str:
    if value is None or value != value:  # NaN
        return "–"
    return form.format(value)
