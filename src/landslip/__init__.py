"""From a satellite scene to a landslide inventory.

The names below are the public Python API; the command line only calls them. Nothing heavy is
loaded before it is used: ``import landslip`` takes no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from landslip.assess.evaluate import evaluate
    from landslip.assess.evaluation import Evaluation
    from landslip.assess.evaluation_report import write_evaluation_report
    from landslip.assess.frequency import FrequencyArea, inventory_statistics
    from landslip.assess.scores import Counts, ScoreHistogram
    from landslip.deliver.export import Exported, export_inventory
    from landslip.demo import run_demo
    from landslip.geo.errors import (
        BandError,
        DataError,
        InventoryError,
        LandslipError,
        MissingExtraError,
        ModelError,
        OutputError,
        RasterError,
        TileSetError,
        UsageError,
    )
    from landslip.geo.grid import Grid, Window
    from landslip.geo.raster import Raster, Scene
    from landslip.geo.scene import open_scene
    from landslip.inventory.event import Event, read_event
    from landslip.inventory.options import InventoryOptions, InventoryResult
    from landslip.inventory.sheet import write_sheet
    from landslip.inventory.vectorise import vectorise
    from landslip.learn.authors import convert_checkpoint
    from landslip.learn.calibrate import calibrate_model
    from landslip.learn.card import ModelCard, load_card, load_model
    from landslip.learn.plan import TrainOptions
    from landslip.learn.predict import score_model
    from landslip.learn.recipes import Recipe, recipe_named
    from landslip.learn.tile_maps import evaluate_models
    from landslip.learn.train import train_model, train_on_scene
    from landslip.mapping.options import MapEstimate, MapOptions, MapResult
    from landslip.mapping.scene_map import estimate_map, map_scene, map_scenes
    from landslip.prepare.check import SceneCheck, check_scene
    from landslip.prepare.picture_folder import tiles_from_folder
    from landslip.prepare.scaling import write_eight_bit
    from landslip.prepare.sharpen.matching import SharpenOptions
    from landslip.prepare.sharpen.pansharpen import PansharpenedScene, open_pansharpened, pansharpen
    from landslip.prepare.sharpen.quality import SharpenQuality, sharpen_quality
    from landslip.prepare.split import TileOptions
    from landslip.prepare.tile_set import Tile, TileSet
    from landslip.prepare.tiles import make_tiles, tiles_of_scene
    from landslip.samples.synthetic import make_valley, write_valley
    from landslip.study import StudyOptions, run_study

_HOME = {
    "BandError": "geo.errors",
    "Counts": "assess.scores",
    "DataError": "geo.errors",
    "Evaluation": "assess.evaluation",
    "Event": "inventory.event",
    "Exported": "deliver.export",
    "FrequencyArea": "assess.frequency",
    "Grid": "geo.grid",
    "InventoryError": "geo.errors",
    "InventoryOptions": "inventory.options",
    "InventoryResult": "inventory.options",
    "LandslipError": "geo.errors",
    "MapEstimate": "mapping.options",
    "MapOptions": "mapping.options",
    "MapResult": "mapping.options",
    "MissingExtraError": "geo.errors",
    "ModelCard": "learn.card",
    "ModelError": "geo.errors",
    "OutputError": "geo.errors",
    "PansharpenedScene": "prepare.sharpen.pansharpen",
    "Raster": "geo.raster",
    "RasterError": "geo.errors",
    "Recipe": "learn.recipes",
    "Scene": "geo.raster",
    "SceneCheck": "prepare.check",
    "ScoreHistogram": "assess.scores",
    "SharpenOptions": "prepare.sharpen.matching",
    "SharpenQuality": "prepare.sharpen.quality",
    "StudyOptions": "study",
    "Tile": "prepare.tile_set",
    "TileOptions": "prepare.split",
    "TileSet": "prepare.tile_set",
    "TileSetError": "geo.errors",
    "TrainOptions": "learn.plan",
    "UsageError": "geo.errors",
    "Window": "geo.grid",
    "calibrate_model": "learn.calibrate",
    "check_scene": "prepare.check",
    "convert_checkpoint": "learn.authors",
    "estimate_map": "mapping.scene_map",
    "evaluate": "assess.evaluate",
    "evaluate_models": "learn.tile_maps",
    "export_inventory": "deliver.export",
    "inventory_statistics": "assess.frequency",
    "load_card": "learn.card",
    "load_model": "learn.card",
    "make_tiles": "prepare.tiles",
    "make_valley": "samples.synthetic",
    "map_scene": "mapping.scene_map",
    "map_scenes": "mapping.scene_map",
    "open_pansharpened": "prepare.sharpen.pansharpen",
    "open_scene": "geo.scene",
    "pansharpen": "prepare.sharpen.pansharpen",
    "read_event": "inventory.event",
    "recipe_named": "learn.recipes",
    "run_demo": "demo",
    "run_study": "study",
    "score_model": "learn.predict",
    "sharpen_quality": "prepare.sharpen.quality",
    "tiles_from_folder": "prepare.picture_folder",
    "tiles_of_scene": "prepare.tiles",
    "train_model": "learn.train",
    "train_on_scene": "learn.train",
    "vectorise": "inventory.vectorise",
    "write_eight_bit": "prepare.scaling",
    "write_evaluation_report": "assess.evaluation_report",
    "write_sheet": "inventory.sheet",
    "write_valley": "samples.synthetic",
}

__all__ = [
    "BandError",
    "Counts",
    "DataError",
    "Evaluation",
    "Event",
    "Exported",
    "FrequencyArea",
    "Grid",
    "InventoryError",
    "InventoryOptions",
    "InventoryResult",
    "LandslipError",
    "MapEstimate",
    "MapOptions",
    "MapResult",
    "MissingExtraError",
    "ModelCard",
    "ModelError",
    "OutputError",
    "PansharpenedScene",
    "Raster",
    "RasterError",
    "Recipe",
    "Scene",
    "SceneCheck",
    "ScoreHistogram",
    "SharpenOptions",
    "SharpenQuality",
    "StudyOptions",
    "Tile",
    "TileOptions",
    "TileSet",
    "TileSetError",
    "TrainOptions",
    "UsageError",
    "Window",
    "calibrate_model",
    "check_scene",
    "convert_checkpoint",
    "estimate_map",
    "evaluate",
    "evaluate_models",
    "export_inventory",
    "inventory_statistics",
    "load_card",
    "load_model",
    "make_tiles",
    "make_valley",
    "map_scene",
    "map_scenes",
    "open_pansharpened",
    "open_scene",
    "pansharpen",
    "read_event",
    "recipe_named",
    "run_demo",
    "run_study",
    "score_model",
    "sharpen_quality",
    "tiles_from_folder",
    "tiles_of_scene",
    "train_model",
    "train_on_scene",
    "vectorise",
    "write_eight_bit",
    "write_evaluation_report",
    "write_sheet",
    "write_valley",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'landslip' has no attribute '{name}'")
    return getattr(import_module(f"landslip.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
