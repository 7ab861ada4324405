"""Scores of a model that can be believed as probabilities: the verb `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from landslip.assess.scores import ScoreHistogram
from landslip.geo.errors import TileSetError, UsageError
from landslip.geo.output import refuse_existing
from landslip.learn.calibration import METHODS, Calibration, fit
from landslip.learn.card import load_model, save_model
from landslip.learn.predict import score_model
from landslip.prepare.tile_set import TileSet


@dataclass(frozen=True)
class CalibrationResult:
    """How far scores could be believed before and after, on one side of the tiles."""

    split: str
    pixels: int
    error_before: float
    """Expected calibration error, 0 to 1."""
    error_after: float
    brier_before: float
    brier_after: float

    @classmethod
    def of(cls, split: str, before: ScoreHistogram, calibration: Calibration) -> CalibrationResult:
        """Measure a calibration on some ground."""
        after = calibration.histogram(before)
        pixels = int(before.landslide.sum() + before.background.sum())
        return cls(
            split, pixels, before.calibration_error(), after.calibration_error(),
            before.brier(), after.brier(),
        )  # fmt: skip


def calibrate_model(
    model: str | Path,
    tiles: str | Path | TileSet,
    out: Path,
    *,
    method: str = "platt",
    split: str = "validation",
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> list[CalibrationResult]:
    """Turn the scores of a model into probabilities, for ground like that of some tiles.

    With `platt` and `temperature`, outlines at the model's threshold stay where they are: the
    threshold moves along. `isotonic` is flat where scores say nothing new, so its threshold is
    chosen anew, by the largest F1. Elsewhere the probabilities may be as wrong as before.

    Args:
        model: Model file; an older calibration in it is replaced.
        tiles: Tile set with labels that the model did not learn from.
        out: Model file to write.
        method: `platt`, a factor and a shift of the logits; `temperature`, a factor alone; or
            `isotonic`, any rising function, for much ground.
        split: Side of the tiles that decides.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bf16 or fp16.
        overwrite: Replace a file that exists.

    Returns:
        What the calibration did on that side, and on `test`, where the tiles have it.

    Raises:
        UsageError: No such method, or the training side decides.
        ModelError: The model cannot be used.
        TileSetError: The tiles have no such side, or it holds no landslide.
        OutputError: `out` exists, or cannot be written.
    """
    if method not in METHODS:
        raise UsageError(f"Cannot calibrate by '{method}': expected {', '.join(METHODS)}.")
    if split == "train":
        raise UsageError(
            "Cannot calibrate on the tiles that the model learnt from: its scores are too sure "
            "there. Use --split validation."
        )
    refuse_existing(out, overwrite=overwrite)
    card, network = load_model(model)
    tile_set = tiles if isinstance(tiles, TileSet) else TileSet.open(tiles)
    sides = [split, *(["test"] if split != "test" and tile_set.of("test") else [])]
    found = {
        side: score_model(
            model, tile_set, split=side, device=device, precision=precision, calibrated=False
        )
        for side in sides
    }
    decides = found[split]
    if not decides.landslide.any() or not decides.background.any():
        raise TileSetError(
            f"Cannot calibrate on {tile_set.folder}: '{split}' holds only "
            f"{'background' if decides.background.any() else 'landslide'}. Use tiles with both."
        )
    calibration = fit(decides, method)
    before = Calibration.of_card(card.calibration)
    results = [CalibrationResult.of(side, found[side], calibration) for side in sides]
    record = {
        "method": method,
        "temperature": calibration.temperature,
        "shift": calibration.shift,
        "table": calibration.table,
        "ground": str(tile_set.folder),
        "split": split,
        "calibration_error": results[0].error_after,
    }

    def moved(threshold: float) -> float:
        raw = threshold if before is None else before.score_of(threshold)
        return min(max(calibration.of(raw), 0.0), 1.0)

    curve = tuple((moved(at), precision, recall) for at, precision, recall in card.pr_curve)
    chosen = moved(card.threshold)
    if method == "isotonic":
        chosen = calibration.histogram(decides).best_threshold()
    changes = {"calibration": record, "threshold": chosen, "pr_curve": curve}
    save_model(out, network, card.model_copy(update=changes), overwrite=overwrite)
    return results
