"""Verb `train`: one visible loop from tiles to a model file."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from landslip.assess.pictures import write_pr_curve
from landslip.assess.scores import Counts, ScoreHistogram
from landslip.geo.errors import DataError, OutputError, TileSetError, UsageError
from landslip.geo.interruption import Interruption
from landslip.geo.output import (
    only_process,
    plain_write_errors,
    refuse_existing,
    unfinished_folder,
    whole_file,
)
from landslip.geo.parallel import default_threads
from landslip.geo.progress import duration, track
from landslip.geo.scene import SceneLike, open_scene
from landslip.geo.windows import spread
from landslip.learn.allocation import freed_memory_kept
from landslip.learn.batches import Batch, Scored, ScoringGround, TrainingGround
from landslip.learn.card import ModelCard, parameter_count, save_model
from landslip.learn.checkpoint import Checkpoint, TrainState
from landslip.learn.device import Compute
from landslip.learn.engine import (
    AveragedWeights,
    deterministic,
    fix_statistics,
    groups_of_parameters,
    is_out_of_memory,
    launch,
    share_statistics,
)
from landslip.learn.graphs import StepGraphs
from landslip.learn.halo import IMAGES as HALO_IMAGES
from landslip.learn.halo import Halo, measured_halo
from landslip.learn.history import Curves, EpochRow, write_history
from landslip.learn.losses import LOSSES
from landslip.learn.models import encoder_of
from landslip.learn.plan import TrainingPlan, TrainOptions, require_known
from landslip.learn.predict import score_batches
from landslip.learn.recipes import Recipe
from landslip.prepare.scaling import Scaling
from landslip.prepare.split import TileOptions
from landslip.prepare.tile_set import Tile, TileSet
from landslip.prepare.tiles import tiles_of_scene

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer

log = logging.getLogger(__name__)

SAVE_INTERVAL_S = 60.0
"""Seconds between two saves; the first and the last epoch are saved in any case."""
ASK_EVERY = 16
"""Steps between two questions among processes whether one was asked to stop."""
Shown = TypeVar("Shown")


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
    threshold of that F1; what a model to start from reaches counts as an epoch, too. Test tiles are
    scored once, at the end. Started by ``torchrun``, its processes share every batch.

    Args:
        tile_sets: Tile sets of the same bands and pixel size.
        out: Model file (`.safetensors`); `.history.csv`, `.history.png` and `.pr.png` (precision
            and recall on validation) appear beside it.
        options: Model, recipe, seed, device; None for the defaults.
        overwrite: Replace a finished file.

    Returns:
        The card of the model.

    Raises:
        OutputError: `out` exists or cannot be written, unfinished work has other options, or
            another process trains it.
        TileSetError: A tile set cannot be used.
        ModelError: The model to start from, or the weights of the encoder, cannot be used.
        DataError: The loss is no number, or a batch does not fit into memory.
        UsageError: An option is unknown.
        KeyboardInterrupt: Stopped by Ctrl-C, after saving; the same call continues.
    """
    options, out = options or TrainOptions(), Path(out)
    _require_safetensors(out)
    refuse_existing(out, overwrite=overwrite)
    opened = [item if isinstance(item, TileSet) else TileSet.open(item) for item in tile_sets]
    if not opened:
        raise TileSetError("Cannot train: no tile set is named. Make one with landslip tile.")
    plan = TrainingPlan(opened, options)
    with plain_write_errors(out), deterministic(options.deterministic), freed_memory_kept():
        training = _Training(plan)
        alone = only_process(out) if training.is_first else nullcontext(unfinished_folder(out))
        with alone as partial:
            with training.fabric.rank_zero_first():
                checkpoint = Checkpoint.open(partial, plan.fingerprint(training.compute.precision))
            try:
                card = training.run(out, checkpoint, overwrite=overwrite)
            except Exception:
                # Nothing was learnt yet: what failed must not stand in the way of the next start.
                checkpoint.forget_if_empty()
                raise
            if training.is_first:
                shutil.rmtree(partial, ignore_errors=True)
                if partial.exists():
                    log.warning("%s is no longer needed and could not be removed", partial)
    return card


def train_on_scene(
    scene: SceneLike,
    inventory: str | Path,
    out: str | Path,
    *,
    tiling: TileOptions | None = None,
    checked: str | Path | None = None,
    positive: int | None = None,
    false_alarms: str | Path | None = None,
    options: TrainOptions | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Train on tiles that are read from the scene itself: nothing but the model is written.

    Args:
        scene: Scene, or the path of a file that names its bands.
        inventory: Landslide polygons (any OGR format) or a label raster.
        out: As for `train_model`.
        tiling: How the ground is cut and split; None for the defaults.
        checked: Polygons inside which everything was inspected.
        positive: Value of landslides in a label raster where it is not 1.
        false_alarms: Polygons over what a model wrongly mapped: background that is shown more
            often.
        options: As for `train_model`.
        overwrite: Replace a finished file.

    Raises:
        LandslipError: As `tiles_of_scene` and `train_model` do.
    """
    options, out = options or TrainOptions(), Path(out)
    _require_safetensors(out)
    refuse_existing(out, overwrite=overwrite)
    require_known(options)
    with ExitStack() as stack:
        if isinstance(scene, str | Path):
            scene = stack.enter_context(closing(open_scene(scene)))
        tiles = tiles_of_scene(
            scene, inventory, options=tiling, checked=checked, positive=positive,
            false_alarms=false_alarms,
        )  # fmt: skip
        return train_model([tiles], out, options=options, overwrite=overwrite)


def _require_safetensors(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise OutputError(
            f"Cannot write model {out}: its name must end in .safetensors. "
            f"Write --out {out.with_suffix('.safetensors').name}."
        )


class _Training:
    """One training, from a plan to a card; holds what the loop's sections share."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.recipe = plan.recipe
        options = plan.options
        chosen = Compute.choose(options.device, options.precision)
        self.fabric, self.compute = launch(chosen)
        self.is_first = self.fabric.global_rank == 0
        if not self.is_first:
            logging.getLogger("landslip").setLevel(logging.ERROR)
        if self.recipe.batch < self.fabric.world_size:
            raise UsageError(
                f"Cannot share a batch of {self.recipe.batch} among {self.fabric.world_size} "
                f"processes. Use --batch {self.fabric.world_size} or more."
            )
        self.loss = LOSSES[self.recipe.loss]
        self.workers = options.workers or _default_workers(self.compute)
        self.curves = Curves(options.tensorboard if self.is_first else None)
        self.graphs: StepGraphs | None = None

    def run(self, out: Path, checkpoint: Checkpoint, *, overwrite: bool) -> ModelCard:
        """The training, epoch by epoch."""
        plan, recipe, fabric, compute = self.plan, self.recipe, self.fabric, self.compute
        plain, origin = plan.first_network()
        with fabric.rank_zero_first():
            percentiles, scaling = checkpoint.measured(plan.measured_scaling)
        ground = plan.ground(scaling)
        judge = self._part(plan.validation_tiles, scaling)
        also = None
        if recipe.threshold_ground == "all":
            also = self._part(plan.train_tiles, scaling)
        steps = len(ground.groups(0))
        epochs = recipe.epochs_of(steps)

        if fabric.world_size > 1 and compute.device.type == "cuda":
            plain = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
        plain = compute.place(plain)
        optimizer = _optimizer(plain, recipe, compute)
        network, driver = fabric.setup(plain, optimizer)
        if plan.options.accumulate == 1:
            self.graphs = StepGraphs.where_they_help(
                plain, compute, fabric.world_size, lambda batch: self._gradients(network, batch, 1)
            )
        averaged = AveragedWeights(plain, recipe.ema) if recipe.ema else None
        state = checkpoint.restore(plain, optimizer, fabric.strategy.precision, averaged)
        log.info(
            "training %s (%s weights, %s) on %d tiles, %d px, %d epochs of %d steps, %s",
            plan.model, f"{parameter_count(plain):,}", origin, len(plan.train_tiles), ground.crop,
            epochs, steps, compute.text,
        )  # fmt: skip
        if state.epoch or state.step:
            log.info("continuing in epoch %d at step %d", state.epoch + 1, state.step)
        elif plan.start is not None and plan.validation_tiles:
            f1 = self._judge(plain, judge, also, known=plan.start.threshold).counts.f1
            log.info("before training: validation F1 %.3f", f1)
            if self.is_first:
                checkpoint.keep_best(plain.state_dict(), 0)
            state = replace(state, best_f1=_worst_if_undefined(f1))

        with Interruption() as interruption, self.curves as curves:
            saved_at = time.monotonic()

            def save() -> None:
                # The loss of another process may be no number; it will say so.
                if self.is_first and all(bool(w.isfinite().all()) for w in plain.parameters()):
                    checkpoint.save(plain, optimizer, fabric.strategy.precision, averaged, state)

            while state.epoch < epochs and not _is_exhausted(state, recipe):
                # Learn from one pass over the ground.
                begun = time.monotonic()
                plain.train()
                if recipe.fixed_statistics:
                    fix_statistics(plain)
                batches = _Timed(self._shown(ground, state))
                what = f"Epoch {state.epoch + 1}/{epochs}"
                sent: tuple[torch.Tensor, Batch] | None = None
                for batch in track(batches, total=steps - state.step, what=what):
                    done = state.epoch * steps + state.step
                    rate = recipe.rate(done / steps, epochs)
                    for group in optimizer.param_groups:
                        group["lr"] = rate * group["share"]
                    # Dropout, too, is a function of seed and step.
                    torch.manual_seed(hash((plan.options.seed, done, fabric.global_rank)))
                    loss = self._learn(network, driver, batch)
                    if averaged is not None:
                        averaged.update(done + 1)
                    # The loss before this one is looked at while the device computes this one.
                    state = replace(
                        state, step=state.step + 1, loss_sum=state.loss_sum + _checked(sent, state)
                    )
                    sent = loss, batch
                    asked = self._anyone(interruption.asked, done)
                    if asked or time.monotonic() - saved_at > SAVE_INTERVAL_S:
                        state = replace(
                            state, loss_sum=state.loss_sum + _checked(sent, state),
                            seconds=state.seconds + time.monotonic() - begun,
                            waited_s=state.waited_s + batches.waited_s,
                        )  # fmt: skip
                        sent, batches.waited_s = None, 0.0
                        save()
                        begun = saved_at = time.monotonic()
                        _stop_if_asked(asked, state)
                state = replace(state, loss_sum=state.loss_sum + _checked(sent, state))

                # Score the validation ground, and keep the best weights.
                with _weights_of(plain, averaged):
                    verdict = self._judge(plain, judge, also)
                    counts = verdict.counts
                    f1 = _worst_if_undefined(counts.f1)
                    if not plan.validation_tiles or f1 > state.best_f1:
                        if self.is_first:
                            checkpoint.keep_best(plain.state_dict(), state.epoch + 1)
                        state = replace(state, best_f1=f1, best_epoch=state.epoch + 1)
                row = EpochRow(
                    state.epoch + 1, self._mean(state.loss_sum / steps),
                    recipe.rate(state.epoch, epochs),
                    counts.precision, counts.recall, counts.f1, verdict.threshold,
                    round(state.seconds + time.monotonic() - begun, 2),
                    round(state.waited_s + batches.waited_s + verdict.waited_s, 2),
                )  # fmt: skip
                state = TrainState(
                    epoch=state.epoch + 1, best_f1=state.best_f1, best_epoch=state.best_epoch,
                    history=(*state.history, row),
                )  # fmt: skip
                is_last = state.epoch >= epochs or _is_exhausted(state, recipe)
                asked = not is_last and self._anyone(interruption.asked, 0)
                is_due = state.epoch == 1 or time.monotonic() - saved_at > SAVE_INTERVAL_S
                if is_last or asked or is_due:
                    save()
                    saved_at = time.monotonic()
                curves.add(row)
                left = row.seconds * (epochs - state.epoch)
                log.info("%s, %s left", row.text(epochs), duration(left))
                _stop_if_asked(asked, state)

        # Describe the best weights, and write them under their final name.
        fabric.barrier()
        checkpoint.load_best(plain, state.best_epoch)
        known = plan.start.threshold if plan.start and state.best_epoch == 0 else None
        verdict = self._judge(plain, judge, also, known=known)
        tested = plan.tiles("test")
        test = None
        if tested:
            # Scored once: nothing is kept in memory.
            test_ground = replace(self._part(tested, scaling), cache_bytes=0)
            test = self._score(plain, self._judged(test_ground))
        halo = fabric.broadcast(self._halo(plain, scaling))
        card = plan.card(
            out.stem, plain, ground, percentiles, verdict.histogram, verdict.threshold, test,
            halo.px,
            {
                "halo": {"windows": halo.windows, "difference": round(halo.difference, 6)},
                "weights": origin,
                "epochs": len(state.history),
                "best_epoch": state.best_epoch,
                "compute": compute.text,
                "processes": fabric.world_size,
                "seconds": round(sum(row.seconds for row in state.history), 1),
            },
        )  # fmt: skip
        if self.is_first:
            self._write(out, plain, card, state, verdict.histogram, overwrite=overwrite)
        fabric.barrier()
        return card

    def _part(self, tiles: tuple[tuple[TileSet, Tile], ...], scaling: Scaling) -> ScoringGround:
        """What this process scores of these tiles."""
        own = tiles[self.fabric.global_rank :: self.fabric.world_size]
        return self.plan.scoring_ground(own, scaling)

    def _halo(self, network: nn.Module, scaling: Scaling) -> Halo:
        """What windows of a map need around them, measured by the first process for all."""
        entry = self.plan.entry
        if not self.is_first:
            return Halo(entry.halo_px, 0, 0.0)
        # Validation ground alone may be easy ground, where far things never matter.
        half = HALO_IMAGES // 2
        tiles = [*spread(self.plan.validation_tiles, half), *spread(self.plan.train_tiles, half)]
        seen = replace(self.plan.scoring_ground(tuple(tiles), scaling), cache_bytes=0)
        images = [image[0] for image, _ in seen.batches(1, workers=self.workers)]
        try:
            return measured_halo(network, images, self.compute, entry.stride, entry.halo_px)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("the halo was not measured: memory ran out. It is %d px", entry.halo_px)
            return Halo(entry.halo_px, 0, 0.0)

    def _shown(self, ground: TrainingGround, state: TrainState) -> Iterator[Batch]:
        return ground.batches(
            state.epoch, state.step, rank=self.fabric.global_rank, world=self.fabric.world_size,
            workers=self.workers, pinned=self.compute.device.type == "cuda",
        )  # fmt: skip

    def _judged(self, ground: ScoringGround) -> Iterator[Scored]:
        """Tiles to score, at once no more pixels than are learnt from at once."""
        parts = self.plan.options.accumulate * self.fabric.world_size
        most_px = -(-self.recipe.batch // parts) * self.plan.crop**2
        return ground.batches(most_px, workers=self.workers)

    def _learn(
        self, network: _FabricModule, driver: _FabricOptimizer, batch: Batch
    ) -> torch.Tensor:
        """Take one step, its batch in parts; returns the loss, which may still be computed."""
        try:
            return self._step(network, driver, batch, self.plan.options.accumulate)
        except Exception as error:
            if _needs_company(error):
                raise UsageError(
                    f"Cannot train {self.plan.model} on one sample at a time: it normalises over "
                    "samples that are computed together. Use --batch "
                    f"{2 * self.fabric.world_size} or more, without --accumulate."
                ) from error
            if not is_out_of_memory(error):
                raise
            driver.zero_grad(set_to_none=True)
        # Outside the handler: the traceback holds on to what did not fit.
        raise DataError(self._fitting(network, driver, batch))

    def _step(
        self, network: _FabricModule, driver: _FabricOptimizer, batch: Batch, parts: int
    ) -> torch.Tensor:
        replayed = None if self.graphs is None else self.graphs.gradients(batch)
        loss = self._gradients(network, batch, parts) if replayed is None else replayed
        if self.recipe.max_gradient_norm:
            # A loss that is no number is told when it arrives.
            self.fabric.clip_gradients(
                network, driver, max_norm=self.recipe.max_gradient_norm, error_if_nonfinite=False
            )
        driver.step()
        driver.zero_grad(set_to_none=True)
        return loss

    def _gradients(self, network: _FabricModule, batch: Batch, parts: int) -> torch.Tensor:
        """Compute the gradients of a batch in parts; returns the loss."""
        count = len(batch.images)
        total = torch.zeros((), device=self.compute.device)
        cuts = np.linspace(0, count, min(parts, count) + 1).astype(int).tolist()
        for begin, end in pairwise(cuts):
            part = batch.part(begin, end).each(self.compute.send)
            with self.fabric.no_backward_sync(network, enabled=end < count):
                loss = self.loss(network(part.images), part.labels, part.weights)
                share = loss * (len(part.images) / count)
                self.fabric.backward(share)
            total += share.detach()
        return total

    def _fitting(self, network: _FabricModule, driver: _FabricOptimizer, batch: Batch) -> str:
        """What to do where memory ran out, found by trying smaller parts."""
        parts = self.plan.options.accumulate
        size = -(-len(batch.images) // parts)
        crop = batch.images.shape[-1]
        if self.fabric.world_size > 1:
            # Nothing can be tried: the other processes wait for this one's gradients.
            smaller = f"--accumulate {2 * parts}, which takes the same steps in parts, or "
            return (
                f"Cannot train: {size} samples of {crop} px at once do not fit into the memory of "
                f"{self.compute.text}. Use {smaller if size > 1 else ''}a smaller --crop."
            )
        while size > 1:
            size //= 2
            try:
                self._step(network, driver, batch.part(0, size), 1)
            except Exception as error:
                if not is_out_of_memory(error) and not _needs_company(error):
                    raise
            else:
                parts = -(-self.recipe.batch // size)
                return (
                    f"Cannot train: a batch of {self.recipe.batch} samples of {crop} px does not "
                    f"fit into the memory of {self.compute.text}; {size} at once do. Use "
                    f"--accumulate {parts}, which takes the same steps in parts."
                )
        return (
            f"Cannot train {self.plan.model}: as few samples of {crop} px as it can learn from do "
            f"not fit into the memory of {self.compute.text}. Use --crop {max(crop // 2, 32)}, or "
            "a smaller --model."
        )

    def _anyone(self, asked: bool, step: int) -> bool:
        """True where any process was asked to stop: they must stop after the same step.

        They ask each other now and then only, because a GPU must finish its work to answer.
        """
        if self.fabric.world_size == 1:
            return asked
        if step % ASK_EVERY:
            return False
        flag = torch.tensor(float(asked), device=self.compute.device)
        self.fabric.all_reduce(flag, reduce_op="sum")  # in place
        return bool(flag)

    def _mean(self, value: float) -> float:
        """The mean over all processes."""
        if self.fabric.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.compute.device)
        self.fabric.all_reduce(total, reduce_op="sum")  # in place
        return float(total) / self.fabric.world_size

    def _score(self, network: nn.Module, batches: Iterable[Scored]) -> ScoreHistogram:
        network.eval()
        if self.fabric.world_size > 1:
            share_statistics(network)
        try:
            own = score_batches(network, batches, self.compute, self.plan.entry.stride)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise DataError(
                "Cannot score: the validation or test tiles do not fit into the memory of "
                f"{self.compute.text}. Tile with a smaller --size, or use a smaller --model."
            ) from error
        return own if self.fabric.world_size == 1 else _summed(self.fabric, own)

    def _judge(
        self,
        network: nn.Module,
        validation: ScoringGround,
        also: ScoringGround | None,
        known: float | None = None,
    ) -> _Verdict:
        """Score on validation, at the threshold of the largest F1 there and on `also`.

        A threshold that is `known` is taken where its F1 on validation is larger.
        """
        batches = _Timed(self._judged(validation))
        found = total = self._score(network, batches)
        waited_s = batches.waited_s
        if also is not None:
            batches = _Timed(self._judged(also))
            total = found + self._score(network, batches)
            waited_s += batches.waited_s
        threshold = total.best_threshold()
        if known is not None and found.counts(known).f1 > found.counts(threshold).f1:
            threshold = known
        return _Verdict(found, threshold, waited_s)

    def _write(
        self,
        out: Path,
        network: nn.Module,
        card: ModelCard,
        state: TrainState,
        validation: ScoreHistogram,
        *,
        overwrite: bool,
    ) -> None:
        write_history(out, state.history, state.best_epoch)
        if card.pr_curve:
            with whole_file(out.with_suffix(".pr.png"), overwrite=True) as path:
                write_pr_curve(validation, card.threshold, path)
        test = card.scores.get("test")
        if test is not None:
            log.info("test ground, at threshold %.2f: %s", card.threshold, _in_words(test))
        save_model(out, network, card, overwrite=overwrite)


@dataclass(frozen=True)
class _Verdict:
    """What a network is worth on validation."""

    histogram: ScoreHistogram
    threshold: float
    waited_s: float
    """Time in which tiles were waited for (s)."""

    @property
    def counts(self) -> Counts:
        """Scores at the threshold."""
        return self.histogram.counts(self.threshold)


class _Timed(Generic[Shown]):
    """Batches, and how long they were waited for."""

    def __init__(self, batches: Iterator[Shown]) -> None:
        self._batches = batches
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Shown]:
        while True:
            begun = time.monotonic()
            batch = next(self._batches, None)
            self.waited_s += time.monotonic() - begun
            if batch is None:
                return
            yield batch


def _default_workers(compute: Compute) -> int:
    """On a CPU the network needs the processors itself."""
    threads = default_threads()
    return max(1, threads // 4) if compute.device.type == "cpu" else min(threads, 12)


def _checked(sent: tuple[torch.Tensor, Batch] | None, state: TrainState) -> float:
    """The loss of a step that was sent to the device, once it is there; 0 for none.

    Raises:
        DataError: It is no number. What was saved before is still good.
    """
    if sent is None:
        return 0.0
    loss, batch = float(sent[0]), sent[1]
    if math.isfinite(loss):
        return loss
    raise DataError(
        f"Cannot train: the loss is {loss} in epoch {state.epoch + 1}, in the batch of tiles "
        f"{', '.join(batch.tiles)}. What was saved before is kept: look at these tiles, lower "
        "--learning-rate, or use --precision float32."
    )


def _needs_company(error: Exception) -> bool:
    """True for what torch raises where statistics over one value are asked for."""
    return "more than 1 value per channel" in str(error)


def _worst_if_undefined(f1: float) -> float:
    return -1.0 if math.isnan(f1) else f1


def _is_exhausted(state: TrainState, recipe: Recipe) -> bool:
    """True where validation has not become better for as long as the recipe waits."""
    return bool(recipe.patience) and state.epoch - state.best_epoch >= recipe.patience


@contextmanager
def _weights_of(network: nn.Module, averaged: AveragedWeights | None) -> Iterator[None]:
    """The network with its averaged weights, where there are any."""
    if averaged is None:
        yield
        return
    own = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(averaged.values)
    try:
        yield
    finally:
        network.load_state_dict(own)


def _summed(fabric: Fabric, own: ScoreHistogram) -> ScoreHistogram:
    """The histograms of all processes, added."""
    counts = torch.from_numpy(np.stack([own.landslide, own.background])).to(fabric.device)
    fabric.all_reduce(counts, reduce_op="sum")  # in place
    landslide, background = counts.cpu().numpy()
    return ScoreHistogram(landslide, background)


def _stop_if_asked(asked: bool, state: TrainState) -> None:
    if asked:
        log.warning(
            "stopped in epoch %d at step %d: the same command continues",
            state.epoch + 1, state.step,
        )  # fmt: skip
        raise KeyboardInterrupt


def _in_words(scores: dict[str, float | None]) -> str:
    return ", ".join(
        f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in scores.items()
    )


def _optimizer(network: nn.Module, recipe: Recipe, compute: Compute) -> torch.optim.Optimizer:
    groups = groups_of_parameters(network, encoder_of(network), recipe.encoder_rate)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    # In few kernels: on a GPU, sending many takes longer than their arithmetic. In fp16 the loss
    # scale must come off the gradients before their norm is taken, which these leave to the step.
    fused = compute.device.type == "cuda" and compute.precision != "fp16"
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, recipe.momentum, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(
        groups, rate, (recipe.momentum, 0.999), weight_decay=decay, fused=fused
    )
