"""Groups of options, the same on every verb that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from landslip.cli.options import (
    Aoi,
    Coregister,
    Method,
    Sensor,
    Unusable,
    Weights,
    metres,
    names_in,
    names_of_given,
    part,
    sharpening_of,
    under,
)

if TYPE_CHECKING:
    from landslip.geo.scene import StackedScene


def takes(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put the options of dataclasses in place of parameters of a command."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        shared: dict[str, list[inspect.Parameter]] = {}
        for parameter, group in groups.items():
            hints = get_type_hints(group, include_extras=True)
            shared[parameter] = [
                inspect.Parameter(
                    each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default,
                    annotation=hints[each.name],
                )
                for each in fields(group)
            ]  # fmt: skip
        own = inspect.signature(command, eval_str=True)
        kept = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, each in own.parameters.items()
            if name not in groups
        ]

        @wraps(command)
        def run(**values: Any) -> None:
            made = {
                parameter: group(**{each.name: values.pop(each.name) for each in shared[parameter]})
                for parameter, group in groups.items()
            }
            command(**made, **values)

        every = [*kept, *(each for options in shared.values() for each in options)]
        run.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in every}
        return run

    return with_options


@dataclass(frozen=True)
class Made:
    """What a scene is made of, the same on every verb; a command opens it."""

    bands: Annotated[
        str | None,
        part("Names of the file's bands in order, '-' to leave one out; of a pair, bands to use."),
    ] = None
    sensor: Sensor = None
    pan: Annotated[str | None, part("Panchromatic file, with --ms instead of a scene.")] = None
    ms: Annotated[str | None, part("Multispectral file, sharpened with --pan as it is read.")] = (
        None
    )
    method: Method = None
    weights: Weights = None
    coregister: Coregister = False
    reflectance: Annotated[
        str | None, part("auto, or the metadata file: use top-of-atmosphere reflectance.")
    ] = None
    add: Annotated[list[str] | None, part("FILE:name,name: bands of another file. Repeatable.")] = (
        None
    )
    dem: Annotated[
        Path | None, part("Elevation model (m): bands elevation and slope, terrain.")
    ] = None
    pre: Annotated[Path | None, part("Scene from before the event: bands pre_*.")] = None
    aoi: Aoi = None
    unusable: Unusable = None
    pixel_size: Annotated[
        float | None, part("Resample the scene to this pixel size (m).", callback=metres)
    ] = None

    @property
    def given(self) -> list[str]:
        """The options that were used, as people write them."""
        return names_of_given(**vars(self))

    def open(self, scene: str | None, *, unnamed: bool = False) -> StackedScene:
        """The scene, or the pair, with all that is laid over it."""
        from landslip.geo.errors import UsageError
        from landslip.geo.scene import open_scene
        from landslip.prepare.sharpen.pansharpen import open_pansharpened

        first: Any = scene
        if (self.pan is None) != (self.ms is None) or (scene is None) == (self.pan is None):
            raise UsageError(
                "Cannot open the scene: name one file, or a pair with --pan and --ms. Correct the "
                "command."
            )
        if self.pan is None or self.ms is None:
            unused = {"--method", "--weights", "--coregister"} & set(self.given)
            if unused:
                raise UsageError(
                    f"Cannot use {', '.join(sorted(unused))} with one file: they are for pairs. "
                    "Name --pan and --ms, or leave them out."
                )
        else:
            if self.pixel_size is not None:
                raise UsageError(
                    "Cannot resample a pair while it is pansharpened. Write it first with landslip "
                    "pansharpen, and use the file with --pixel-size."
                )
            first = open_pansharpened(
                self.pan, self.ms, bands=names_in(self.bands), sensor=self.sensor,
                unusable=self.unusable, unnamed=unnamed,
                options=sharpening_of(self.method, self.weights, self.coregister),
            )  # fmt: skip
        return open_scene(
            first, bands=names_in(self.bands), sensor=self.sensor, reflectance=self.reflectance,
            add=self.add or (), dem=self.dem, pre=self.pre, aoi=self.aoi, unusable=self.unusable,
            pixel_size_m=self.pixel_size, unnamed=unnamed,
        )  # fmt: skip


_told = under("How landslides are outlined, and what is told of them")


@dataclass(frozen=True)
class Outlined:
    """What is asked of an inventory, the same on every verb that makes one."""

    outline: Annotated[str, _told("contour (smooth) or pixels (exact edges).")] = "contour"
    simplify: Annotated[
        float,
        _told("Fewer vertices: outlines may move by so much (m), and never overlap.", min=0),
    ] = 0.0
    min_area: Annotated[float, _told("Leave out smaller polygons (m2).", min=0)] = 0.0
    min_hole: Annotated[float, _told("Fill smaller holes (m2).", min=0)] = 0.0
    split: Annotated[
        bool,
        _told("Cut bodies at their necks; parent_id tells what was one.", "--split"),
    ] = False
    near: Annotated[
        list[str] | None,
        _told("NAME=FILE: tell distances to rivers, roads, buildings. Repeatable."),
    ] = None
    rules: Annotated[Path | None, _told("File of rules that flag landslides.")] = None
    drop: Annotated[
        list[str] | None, _told("Flag whose landslides go to the layer 'dropped'. Repeatable.")
    ] = None
    event: Annotated[Path | None, _told("event.toml: name, dates, trigger, author, licence.")] = (
        None
    )
    volume: Annotated[
        str | None,
        _told("Relation of volume to area, for a range of volumes: larsen-soil, ..."),
    ] = None

    def options(self) -> dict[str, Any]:
        """As `InventoryOptions` and `MapOptions` take them."""
        return {
            "outline": self.outline, "simplify_m": self.simplify, "min_area_m2": self.min_area,
            "min_hole_m2": self.min_hole, "split": self.split, "near": tuple(self.near or ()),
            "rules": self.rules, "drop": tuple(self.drop or ()), "event": self.event,
            "volume": self.volume,
        }  # fmt: skip
