"""What is trained, on what, from what; and the card that tells of it afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from landslip import __version__
from landslip.assess.scores import Counts, ScoreHistogram
from landslip.geo.errors import BandError, ModelError, TileSetError, UsageError
from landslip.geo.parallel import default_memory_bytes
from landslip.geo.progress import track
from landslip.geo.raster import fingerprint as file_fingerprint
from landslip.learn.batches import ScoringGround, TrainingGround, default_crop
from landslip.learn.card import ModelCard, load_card, load_model, parameter_count
from landslip.learn.device import Compute
from landslip.learn.losses import LOSSES
from landslip.learn.models import DEFAULT_MODEL, build_model, encoder_of, model_entry
from landslip.learn.models.encoder_weights import load_encoder_weights
from landslip.learn.radiometry import choose_tile_scaling
from landslip.learn.recipes import Recipe, recipe_named
from landslip.prepare.scaling import (
    ABSOLUTE_UNITS,
    Ranges,
    Scaling,
    measure_percentiles,
    scaling_of,
    unit_of,
)
from landslip.prepare.split import SPLITS
from landslip.prepare.tile_set import Tile, TileSet, require_alike

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is trained, and how."""

    model: str | None = None
    """Name in `MODELS`, or `library:ARCH/ENCODER`; None: that of `start`, else the default."""
    recipe: Recipe | None = None
    """Settings of the training; None: `modern`, and `fine-tune` with `start`."""
    bands: tuple[str, ...] | None = None
    """Bands and indices that the network sees, in order; None: those of `start`, else all bands of
    the tiles."""
    optional: tuple[str, ...] = ()
    """Those of the bands without which the model must work, too."""
    seed: int = 0
    """Decides first weights, order, crops and turns."""
    start: Path | None = None
    """Model file to start from instead of random weights."""
    encoder_weights: str | None = None
    """`imagenet`, or a file of weights for the encoder; None: random ones."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bf16 or fp16."""
    accumulate: int = 1
    """Parts in which a batch is computed: as many times less memory for the same steps."""
    workers: int | None = None
    """Threads that read and prepare samples; None: by the processors of this machine."""
    cache_bytes: int | None = None
    """Most memory for decoded tiles (bytes); None: a quarter of this process's share."""
    deterministic: bool = False
    """True: the same weights from the same seed on CUDA too, slower."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's events; None: none are written."""
    licence: str = ""
    """Licence of the weights, written into the card."""


class TrainingPlan:
    """Options and ground, checked and joined."""

    def __init__(self, tile_sets: Sequence[TileSet], options: TrainOptions) -> None:
        """Check what can be checked before anything is read.

        Raises:
            UsageError: An option is unknown.
            ModelError: The model to start from does not fit.
            TileSetError: The tiles cannot teach, or cannot choose.
            BandError: The tiles lack a band.
        """
        self.tile_sets = tuple(tile_sets)
        self.options = options
        self.start = None if options.start is None else load_card(options.start)
        known = self.start
        self.model = options.model or (known.architecture if known else DEFAULT_MODEL)
        self.recipe = options.recipe or recipe_named("fine-tune" if known else "modern")
        self.entry = model_entry(self.model)
        require_known(options, self.recipe)
        wanted = options.bands or (known.bands if known else None)
        try:
            require_alike(self.tile_sets, wanted)
        except BandError as error:
            if known is None or options.bands is not None:
                raise
            raise BandError(
                f"Cannot start from {options.start}: it needs bands {', '.join(known.bands)}, the "
                f"tiles hold {', '.join(self.tile_sets[0].bands)}. Use tiles with those bands, or "
                "train anew."
            ) from error
        self.bands = tuple(wanted or self.tile_sets[0].bands)
        self.optional = options.optional or (known.optional_bands if known else ())
        unknown = [band for band in self.optional if band not in self.bands]
        if unknown:
            raise BandError(
                f"Cannot train with optional band '{unknown[0]}': the network sees "
                f"{', '.join(self.bands)}. Name it with --use, too."
            )
        if len(self.optional) == len(self.bands):
            raise BandError(
                "Cannot train: all bands are optional, so nothing would be left to see. Leave one "
                "out of --optional."
            )
        self._require_fitting_start()
        self.train_tiles = self.tiles("train")
        self.validation_tiles = self.tiles("validation")
        self._require_teaching_tiles()

    def _require_fitting_start(self) -> None:
        start, options = self.start, self.options
        if start is None:
            return
        if start.architecture != self.model or start.bands != self.bands:
            raise ModelError(
                f"Cannot start from {options.start}: it is a {start.architecture} of bands "
                f"{', '.join(start.bands)}; asked is a {self.model} of "
                f"{', '.join(self.bands)}. Name the same with --model and --use."
            )
        if start.hyperparameters.get("outputs", 1) != 1:
            raise ModelError(
                f"Cannot start from {options.start}: it has several outputs, and one is "
                "trained. Start from a model that landslip trained."
            )
        if options.encoder_weights is not None:
            raise UsageError(
                "Cannot use --encoder-weights with --from: the model to start from has weights. "
                "Leave one out."
            )

    def _require_teaching_tiles(self) -> None:
        """Raise where nothing could be learnt, or the best epoch not be told from the others."""
        for split, tiles in (("train", self.train_tiles), ("validation", self.validation_tiles)):
            shares = [tile.landslide_share for _, tile in tiles if tile.valid_share]
            for is_alone, found in (
                (not any(shares), "no landslide"),
                (bool(shares) and min(shares) == 1, "landslides and no background"),
            ):
                if tiles and is_alone:
                    raise TileSetError(
                        f"Cannot train: the {split} tiles hold {found}. Give some that do another "
                        "split in tiles.gpkg, or tile again with another --split."
                    )
        if not self.train_tiles:
            raise TileSetError("Cannot train: the tile sets hold no training tiles. Tile again.")
        if not self.validation_tiles:
            without = self.recipe.threshold_ground == "validation"
            log.warning(
                "no validation tiles: the last epoch is kept, with a threshold %s",
                "of 0.5" if without else "that the training tiles choose",
            )

    def tiles(self, split: str) -> tuple[tuple[TileSet, Tile], ...]:
        """The tiles of one side, with their sets."""
        return tuple((tiles, tile) for tiles in self.tile_sets for tile in tiles.of(split))

    @property
    def crop(self) -> int:
        """Rows and columns of a sample (px)."""
        whole = default_crop([tile for _, tile in self.train_tiles])
        return min(self.recipe.crop or whole, whole)

    def _measured(self) -> Ranges:
        """Percentiles of the ground: of whole scenes, and of tiles where none are.

        Several scenes give the range that spans theirs.
        """
        stored = [{band: (low, high) for band, low, high in each.percentiles}
                  for each in self.tile_sets]  # fmt: skip
        found = {
            band: (min(each[band][0] for each in stored), max(each[band][1] for each in stored))
            for band in self.bands
            if all(band in each for each in stored)
        }
        left = [band for band in self.bands if band not in found]
        if left:
            count = len(self.train_tiles)
            tiles = track(self.train_tiles, total=count, what="Measuring the bands")
            rasters = (tile_set.read(tile, left)[0] for tile_set, tile in tiles)
            measured = measure_percentiles(rasters, left, count)
            found |= {band: (low, high) for band, low, high in measured}
        return tuple((band, *found[band]) for band in self.bands)

    def measured_scaling(self) -> tuple[Ranges, Scaling]:
        """Percentiles of the ground, and how it is shown.

        As `start` would be shown it, else by its percentiles.
        """
        percentiles = self._measured()
        if self.start is not None:
            return percentiles, choose_tile_scaling(self.train_tiles, self.start).scaling
        stretched = self.tile_sets[0].eight_bit
        return percentiles, scaling_of(
            percentiles, eight_bit=stretched, quantised=self.recipe.quantised
        )

    def ground(self, scaling: Scaling) -> TrainingGround:
        """The training tiles as the network sees them."""
        options = self.options
        units = self._units()
        return TrainingGround(
            tiles=self.train_tiles,
            scaling=scaling,
            crop=self.crop,
            recipe=self.recipe,
            seed=options.seed,
            optional=self.optional,
            unlit=tuple(
                band for band, unit in zip(self.bands, units, strict=False)
                if unit in ABSOLUTE_UNITS
            ),
            cache_bytes=self._cache_bytes(self.train_tiles),
        )  # fmt: skip

    def scoring_ground(
        self, tiles: tuple[tuple[TileSet, Tile], ...], scaling: Scaling
    ) -> ScoringGround:
        """Tiles to score as the network sees them."""
        return ScoringGround(
            tiles=tiles, scaling=scaling, optional=self.optional,
            cache_bytes=self._cache_bytes(tiles),
        )  # fmt: skip

    def _cache_bytes(self, tiles: Sequence[tuple[TileSet, Tile]]) -> int:
        """The part of the memory for decoded tiles that these take, by their pixels."""
        asked = self.options.cache_bytes
        whole = default_memory_bytes() // 4 if asked is None else asked
        kept = (*self.train_tiles, *self.validation_tiles)
        if self.recipe.threshold_ground == "all":
            kept += self.train_tiles
        own, total = (sum(tile.height * tile.width for _, tile in some) for some in (tiles, kept))
        return whole * own // total

    def _units(self) -> tuple[str, ...]:
        """Units of the bands; empty where a tile set does not know its own."""
        first = self.tile_sets[0]
        if not all(each.units for each in self.tile_sets):
            return ()
        stored = dict(zip(first.bands, first.units, strict=True))
        return tuple(unit_of(band, stored) for band in self.bands)

    def first_network(self) -> tuple[nn.Module, str]:
        """The network as training begins, and where its weights come from."""
        torch.manual_seed(self.options.seed)
        source = self.options.encoder_weights
        if self.options.start is not None:
            network, origin = load_model(self.options.start)[1], f"model {self.options.start}"
        else:
            network, origin = build_model(self.model, len(self.bands)), "random"
        if source is not None:
            origin = load_encoder_weights(network, self.model, source, self.bands)
        if self.recipe.encoder_rate != 1 and encoder_of(network) is None:
            raise UsageError(
                f"Cannot train {self.model} with encoder_rate {self.recipe.encoder_rate:g}: it has "
                "no encoder. Leave it at 1, or choose another --model."
            )
        return network, origin

    def fingerprint(self, precision: str) -> dict[str, Any]:
        """What must be the same for unfinished work to be continued."""
        options = self.options
        return {
            "model": self.model,
            "recipe": asdict(self.recipe),
            "bands": list(self.bands),
            "optional": list(self.optional),
            "seed": options.seed,
            "start": options.start and _content(options.start),
            "encoder_weights": options.encoder_weights and _content(options.encoder_weights),
            "precision": precision,
            "tiles": [tiles.sha256() for tiles in self.tile_sets],
        }

    def card(
        self,
        name: str,
        network: nn.Module,
        ground: TrainingGround,
        percentiles: Ranges,
        validation: ScoreHistogram,
        threshold: float,
        test: ScoreHistogram | None,
        halo_px: int,
        training: dict[str, Any],
    ) -> ModelCard:
        """What the model file tells of itself."""
        scores = {"validation": scores_of(validation.counts(threshold))}
        if test is not None:
            scores["test"] = scores_of(test.counts(threshold))
        return ModelCard(
            name=name,
            architecture=self.model,
            hyperparameters={"outputs": 1},
            framework_version=torch.__version__,
            total_parameters=parameter_count(network),
            bands=self.bands,
            optional_bands=self.optional,
            scaling=ground.scaling.ranges,
            # Of bands that are one value everywhere (8-bit, say) there is nothing to match.
            percentiles=percentiles if all(low < high for _, low, high in percentiles) else (),
            units=self._units(),
            sensor=", ".join(sorted({each.sensor for each in self.tile_sets} - {""})),
            quantised=ground.scaling.quantised,
            pixel_size_m=self.tile_sets[0].pixel_size_m,
            threshold=threshold,
            pr_curve=tuple(
                (round(cut, 4), round(counts.precision, 4), round(counts.recall, 4))
                for cut, counts in validation.curve()
                if counts.tp + counts.fp and counts.tp + counts.fn
            ),
            halo_px=halo_px,
            stride_px=self.entry.stride,
            landslide_share=ground.landslide_share,
            training={
                "landslip": __version__,
                "recipe": asdict(self.recipe),
                "seed": self.options.seed,
                "accumulate": self.options.accumulate,
                "crop_px": ground.crop,
                "tiles": {split: len(self.tiles(split)) for split in SPLITS},
                "tile_sets": [
                    {"sha256": tiles.sha256(), "sources": list(tiles.sources)}
                    for tiles in self.tile_sets
                ],
                "started_from": None if self.options.start is None else str(self.options.start),
                **training,
            },
            scores=scores,
            licence=self.options.licence,
        )


def require_known(options: TrainOptions, recipe: Recipe | None = None) -> None:
    """Raise UsageError for names that no long work should find out about."""
    recipe = recipe or options.recipe or recipe_named("modern")
    if options.model is not None:
        model_entry(options.model)
    Compute.choose(options.device, options.precision)
    if recipe.loss not in LOSSES:
        raise UsageError(f"Cannot find loss '{recipe.loss}'. Choose one of {', '.join(LOSSES)}.")
    if not 1 <= options.accumulate <= recipe.batch:
        raise UsageError(
            f"Cannot compute a batch of {recipe.batch} in {options.accumulate} parts: expected 1 "
            f"to {recipe.batch}. Correct --accumulate."
        )
    if options.workers is not None and options.workers < 1:
        raise UsageError(
            f"Cannot read with {options.workers} workers: expected at least 1. Correct --workers."
        )


def _content(path: str | Path) -> str | int:
    """The hash of a file; what is none, such as the name of weights, as it is."""
    return file_fingerprint(path).get("sha256", str(path))


def scores_of(counts: Counts) -> dict[str, float | None]:
    """Scores for the card; None where undefined."""
    values = {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "iou": counts.iou,
    }
    return {key: None if value != value else round(value, 6) for key, value in values.items()}
