"""Verb `train`: one visible loop from tiles to a model file."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from landslip import __version__
from landslip.assess.pictures import write_pr_curve
from landslip.assess.scores import Counts, ScoreHistogram
from landslip.geo.errors import DataError, ModelError, OutputError, TileSetError, UsageError
from landslip.geo.interruption import Interruption
from landslip.geo.output import plain_write_errors, refuse_existing, require_same, whole_file
from landslip.geo.progress import duration, track
from landslip.geo.scene import SceneLike, SourceFile, as_scene
from landslip.learn.batches import TrainingGround, default_crop
from landslip.learn.card import ModelCard, load_model, parameter_count, save_model
from landslip.learn.checkpoint import Checkpoint, EpochRow, TrainState
from landslip.learn.device import Compute
from landslip.learn.losses import LOSSES
from landslip.learn.models import build_model, model_entry
from landslip.learn.predict import score_tiles
from landslip.learn.recipes import Recipe, recipe_named
from landslip.prepare.scaling import Ranges, Scaling, measure_percentiles, scaling_of, unit_of
from landslip.prepare.split import SPLITS, TileOptions
from landslip.prepare.tiles import Tile, TileSet, make_tiles, require_alike

log = logging.getLogger(__name__)

OPTIMIZERS = ("sgd", "adamw")
SAVE_INTERVAL_S = 300.0
"""Seconds between two saves inside an epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is trained, and how."""

    model: str = "resunet"
    """Name in `MODELS`, or `library:ARCH/ENCODER`."""
    recipe: Recipe = field(default_factory=lambda: recipe_named("paper"))
    """Settings of the training."""
    bands: tuple[str, ...] | None = None
    """Bands and indices that the network sees, in order; None: all bands of the tiles."""
    crop: int | None = None
    """Rows and columns of a sample (px); None: the tile, or their median where sizes differ."""
    seed: int = 0
    """Decides first weights, order, crops and turns."""
    start: Path | None = None
    """Model file to start from instead of random weights."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bf16 or fp16."""
    deterministic: bool = False
    """True: the same weights from the same seed on CUDA too, slower."""
    licence: str = ""
    """Licence of the weights, written into the card."""


def train_model(
    tile_sets: Sequence[TileSet | str | Path],
    out: str | Path,
    *,
    options: TrainOptions | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Train a network on tile sets and write one model file.

    Unfinished work lives in ``OUT.partial/``; the same call continues it. After every epoch the
    validation tiles are scored, pooled over pixels; the weights of the best F1 are kept, with the
    threshold of that F1. Test tiles are scored once, at the end.

    Args:
        tile_sets: Tile sets of the same bands and pixel size.
        out: Model file (`.safetensors`); `.history.csv`, `.history.png` and `.pr.png` (precision
            and recall on validation) appear beside it.
        options: Model, recipe, seed, device; None for the paper's.
        overwrite: Replace a finished file.

    Returns:
        The card of the model.

    Raises:
        OutputError: `out` exists or cannot be written, or unfinished work has other options.
        TileSetError: A tile set cannot be used.
        UsageError: An option is unknown.
        KeyboardInterrupt: Stopped by Ctrl-C, after saving; the same call continues.
    """
    options, out = options or TrainOptions(), Path(out)
    _require_known(options)
    _require_safetensors(out)
    refuse_existing(out, overwrite=overwrite)
    opened = [item if isinstance(item, TileSet) else TileSet.open(item) for item in tile_sets]
    if not opened:
        raise TileSetError("Cannot train: no tile set is named. Make one with landslip tile.")
    require_alike(opened, options.bands)
    partial = out.with_name(f"{out.name}.partial")
    with plain_write_errors(partial):
        partial.mkdir(parents=True, exist_ok=True)
        try:
            card = _Training(opened, options, partial).run(out, overwrite=overwrite)
        except Exception:
            # Nothing was learnt yet: what failed must not stand in the way of the next start.
            Checkpoint.forget_empty(partial)
            raise
        shutil.rmtree(partial)
    return card


def train_on_scene(
    scene: SceneLike,
    inventory: str | Path,
    out: str | Path,
    *,
    tiling: TileOptions | None = None,
    checked: str | Path | None = None,
    positive: int | None = None,
    options: TrainOptions | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Tile a scene and train on the tiles: `make_tiles`, then `train_model`.

    The tiles lie in ``OUT.partial/tiles`` until the model is finished.
    """
    options, out = options or TrainOptions(), Path(out)
    _require_known(options)
    _require_safetensors(out)
    refuse_existing(out, overwrite=overwrite)
    partial = out.with_name(f"{out.name}.partial")
    tiling = tiling or TileOptions()
    opened = as_scene(scene)
    sources: Sequence[SourceFile] = getattr(opened, "sources", ())
    asked = {
        "scene": [[each.role, each.path, list(each.bands), each.settings] for each in sources],
        "pixel_size_m": opened.grid.pixel_size_m,
        "sensor": getattr(opened, "sensor", ""),
        "inventory": str(inventory),
        "checked": str(checked),
        "positive": positive,
        **asdict(tiling),
    }
    record = partial / "tiling.json"
    tiles = partial / "tiles"
    if tiles.exists():
        require_same(json.loads(record.read_text(encoding="utf-8")), asked, partial)
        return train_model([tiles], out, options=options, overwrite=overwrite)
    with plain_write_errors(partial):
        partial.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(asked), encoding="utf-8")
    try:
        made = make_tiles(
            opened, inventory, tiles, options=tiling, checked=checked, positive=positive
        )
    except BaseException:
        shutil.rmtree(partial)
        raise
    return train_model([made], out, options=options, overwrite=overwrite)


def _require_known(options: TrainOptions) -> None:
    """Raise UsageError for names that no long work should find out about."""
    model_entry(options.model)
    Compute.choose(options.device, options.precision)
    if options.recipe.loss not in LOSSES:
        raise UsageError(
            f"Cannot find loss '{options.recipe.loss}'. Choose one of {', '.join(LOSSES)}."
        )
    if options.recipe.optimizer not in OPTIMIZERS:
        raise UsageError(
            f"Cannot train with '{options.recipe.optimizer}': expected {' or '.join(OPTIMIZERS)}."
        )


def _require_safetensors(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise OutputError(
            f"Cannot write model {out}: its name must end in .safetensors. "
            f"Write --out {out.with_suffix('.safetensors').name}."
        )


class _Training:
    """One training, from tile sets to a card; holds what the loop's sections share."""

    def __init__(self, tile_sets: Sequence[TileSet], options: TrainOptions, partial: Path) -> None:
        self.tile_sets = tile_sets
        self.options = options
        self.recipe = options.recipe
        self.partial = partial
        self.entry = model_entry(options.model)
        self.compute = Compute.choose(options.device, options.precision)
        self.loss = LOSSES[self.recipe.loss]
        self.bands = options.bands or tile_sets[0].bands
        self.train_tiles = self._tiles("train")
        self.validation_tiles = self._tiles("validation")
        if not self.train_tiles:
            raise TileSetError("Cannot train: the tile sets hold no training tiles. Tile again.")
        if not self.validation_tiles:
            log.warning("no validation tiles: the last epoch is kept, with a threshold of 0.5")

    def _tiles(self, split: str) -> tuple[tuple[TileSet, Tile], ...]:
        return tuple((tiles, tile) for tiles in self.tile_sets for tile in tiles.of(split))

    def run(self, out: Path, *, overwrite: bool) -> ModelCard:
        """The training, epoch by epoch."""
        options, recipe, compute = self.options, self.recipe, self.compute
        if options.deterministic:
            # cuBLAS is deterministic only with a fixed workspace, set before its first use.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        checkpoint = Checkpoint.open(self.partial, self._fingerprint())
        percentiles = self._measured(checkpoint)
        ground = TrainingGround(
            self.train_tiles,
            self._scaling(percentiles),
            options.crop or default_crop([tile for _, tile in self.train_tiles]),
            recipe.quarter_turns,
            options.seed,
        )
        network = compute.place(self._first_network(ground.scaling))
        optimizer = _optimizer(network, recipe)
        scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        state = checkpoint.restore(network, optimizer, scaler)
        log.info(
            "training %s (%s weights) on %d tiles, %d px, %s",
            options.model, f"{parameter_count(network):,}", len(self.train_tiles), ground.crop,
            compute.text,
        )  # fmt: skip
        if state.epoch or state.step:
            log.info("continuing in epoch %d at step %d", state.epoch + 1, state.step)

        with Interruption() as interruption:
            saved_at = time.monotonic()
            while state.epoch < recipe.epochs:
                # Learn from one pass over the tiles.
                begun = time.monotonic()
                network.train()
                steps = len(ground.groups(state.epoch, recipe.batch))
                batches = ground.batches(state.epoch, recipe.batch, state.step)
                what = f"Epoch {state.epoch + 1}/{recipe.epochs}"
                for images, labels in track(batches, total=steps - state.step, what=what):
                    rate = recipe.rate(state.epoch + state.step / steps)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    with compute.autocast():
                        logits = network(compute.send(images))
                    loss = self.loss(logits, labels.to(compute.device))
                    optimizer.zero_grad(set_to_none=True)
                    scaler.scale(loss).backward()
                    scaler.step(optimizer)
                    scaler.update()
                    state = replace(
                        state, step=state.step + 1, loss_sum=state.loss_sum + float(loss.detach())
                    )
                    if interruption.asked or time.monotonic() - saved_at > SAVE_INTERVAL_S:
                        checkpoint.save(network, optimizer, scaler, state)
                        saved_at = time.monotonic()
                        _stop_if_asked(interruption, state)
                if not state.loss_sum < float("inf"):
                    raise DataError(
                        f"Cannot train: the loss is no number in epoch {state.epoch + 1}. "
                        "Lower --learning-rate, or use --precision float32."
                    )

                # Score the validation ground, and keep the best weights.
                histogram = self._score(network, ground.scaling, self.validation_tiles)
                threshold = histogram.best_threshold()
                counts = histogram.counts(threshold)
                row = EpochRow(
                    state.epoch + 1, state.loss_sum / steps, recipe.rate(state.epoch),
                    counts.precision, counts.recall, counts.f1, threshold,
                    round(time.monotonic() - begun, 2),
                )  # fmt: skip
                if not self.validation_tiles or not counts.f1 <= state.best_f1:
                    checkpoint.save_best(network)
                    state = replace(
                        state, best_f1=-1.0 if counts.f1 != counts.f1 else counts.f1,
                        best_epoch=state.epoch + 1,
                    )  # fmt: skip
                state = replace(
                    state, epoch=state.epoch + 1, step=0, loss_sum=0.0,
                    history=(*state.history, row),
                )  # fmt: skip
                checkpoint.save(network, optimizer, scaler, state)
                saved_at = time.monotonic()
                left = row.seconds * (recipe.epochs - state.epoch)
                log.info("%s, %s left", row.text(recipe.epochs), duration(left))
                if state.epoch < recipe.epochs:
                    _stop_if_asked(interruption, state)

        # Describe the best weights, and write them under their final name.
        checkpoint.load_best(network)
        validation = self._score(network, ground.scaling, self.validation_tiles)
        card = self._card(out, network, ground, percentiles, state, validation)
        checkpoint.write_history(out, state.history, state.best_epoch)
        if card.pr_curve:
            with whole_file(out.with_suffix(".pr.png"), overwrite=True) as path:
                write_pr_curve(validation, card.threshold, path)
        save_model(out, network, card, overwrite=overwrite)
        return card

    def _measured(self, checkpoint: Checkpoint) -> Ranges:
        """Percentiles of the ground, measured once: of whole scenes, and of tiles where none are.

        Several scenes give the range that spans theirs.
        """
        if checkpoint.percentiles is not None:
            return checkpoint.percentiles
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
        percentiles = tuple((band, *found[band]) for band in self.bands)
        checkpoint.keep_percentiles(percentiles)
        return percentiles

    def _scaling(self, percentiles: Ranges) -> Scaling:
        stretched = self.tile_sets[0].eight_bit
        return scaling_of(percentiles, eight_bit=stretched, quantised=self.recipe.quantised)

    def _units(self) -> tuple[str, ...]:
        """Units of the bands; empty where a tile set does not know its own."""
        first = self.tile_sets[0]
        if not all(each.units for each in self.tile_sets):
            return ()
        stored = dict(zip(first.bands, first.units, strict=True))
        return tuple(unit_of(band, stored) for band in self.bands)

    def _first_network(self, scaling: Scaling) -> nn.Module:
        torch.manual_seed(self.options.seed)
        if self.options.start is None:
            return build_model(self.options.model, len(scaling.ranges))
        card, network = load_model(self.options.start)
        if card.architecture != self.options.model or card.bands != tuple(self.bands):
            raise ModelError(
                f"Cannot start from {self.options.start}: it is a {card.architecture} of bands "
                f"{', '.join(card.bands)}; asked is a {self.options.model} of "
                f"{', '.join(self.bands)}. Name the same with --model and --use."
            )
        if card.hyperparameters.get("outputs", 1) != 1:
            raise ModelError(
                f"Cannot start from {self.options.start}: it has several outputs, and one is "
                "trained. Start from a model that landslip trained."
            )
        return network

    def _score(
        self,
        network: nn.Module,
        scaling: Scaling,
        tiles: Sequence[tuple[TileSet, Tile]],
    ) -> ScoreHistogram:
        network.eval()
        return score_tiles(
            network, tiles, scaling, self.compute, stride_px=self.entry.stride,
            batch=self.recipe.batch,
        )  # fmt: skip

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for unfinished work to be continued."""
        options = self.options
        return {
            "model": options.model,
            "recipe": asdict(self.recipe),
            "bands": list(self.bands),
            "crop": options.crop,
            "seed": options.seed,
            "start": None if options.start is None else str(options.start),
            "precision": self.compute.precision,
            "tiles": [tiles.sha256() for tiles in self.tile_sets],
        }

    def _card(
        self,
        out: Path,
        network: nn.Module,
        ground: TrainingGround,
        percentiles: Ranges,
        state: TrainState,
        validation: ScoreHistogram,
    ) -> ModelCard:
        threshold = validation.best_threshold()
        scores = {"validation": scores_of(validation.counts(threshold))}
        test_tiles = self._tiles("test")
        if test_tiles:
            counts = self._score(network, ground.scaling, test_tiles).counts(threshold)
            scores["test"] = scores_of(counts)
            log.info(
                "test ground: precision %.3f, recall %.3f, F1 %.3f at threshold %.2f",
                counts.precision, counts.recall, counts.f1, threshold,
            )  # fmt: skip
        pixels = [tile.height * tile.width * tile.valid_share for _, tile in self.train_tiles]
        landslides = [
            n * tile.landslide_share for n, (_, tile) in zip(pixels, self.train_tiles, strict=True)
        ]
        return ModelCard(
            name=out.stem,
            architecture=self.options.model,
            hyperparameters={"outputs": 1},
            framework_version=torch.__version__,
            total_parameters=parameter_count(network),
            bands=tuple(self.bands),
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
            halo_px=self.entry.halo_px,
            stride_px=self.entry.stride,
            landslide_share=sum(landslides) / sum(pixels),
            training={
                "landslip": __version__,
                "recipe": asdict(self.recipe),
                "seed": self.options.seed,
                "crop_px": ground.crop,
                "epochs": len(state.history),
                "best_epoch": state.best_epoch,
                "compute": self.compute.text,
                "tiles": {split: len(self._tiles(split)) for split in SPLITS},
                "tile_sets": [
                    {"sha256": tiles.sha256(), "sources": list(tiles.sources)}
                    for tiles in self.tile_sets
                ],
                "started_from": None if self.options.start is None else str(self.options.start),
            },
            scores=scores,
            licence=self.options.licence,
        )  # fmt: skip


def _stop_if_asked(interruption: Interruption, state: TrainState) -> None:
    if interruption.asked:
        log.warning(
            "stopped in epoch %d at step %d: the same command continues",
            state.epoch + 1, state.step,
        )  # fmt: skip
    interruption.stop_if_asked()


def scores_of(counts: Counts) -> dict[str, float | None]:
    """Scores for the card; None where undefined."""
    values = {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "iou": counts.iou,
    }
    return {key: None if value != value else round(value, 6) for key, value in values.items()}


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), recipe.learning_rate, recipe.momentum,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip
    return torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, (recipe.momentum, 0.999),
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
