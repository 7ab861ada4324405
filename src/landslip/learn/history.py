"""The history of a training: a row an epoch, as a table, a picture, and curves."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from landslip.geo.errors import MissingExtraError
from landslip.geo.output import whole_file


@dataclass(frozen=True)
class EpochRow:
    """A line of the history. Validation scores are NaN where there is no validation ground."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the steps."""
    learning_rate: float
    """At the beginning of the epoch."""
    precision: float
    """On validation, at `threshold`."""
    recall: float
    """On validation, at `threshold`."""
    f1: float
    """On validation, at `threshold`."""
    threshold: float
    """Of the largest F1 on validation."""
    seconds: float
    """Wall time of the epoch (s)."""
    waited_s: float
    """Of it, time in which the loop waited for samples (s)."""

    def text(self, epochs: int) -> str:
        """For people."""
        return (
            f"epoch {self.epoch}/{epochs}: loss {self.loss:.4f}, rate {self.learning_rate:.1e}, "
            f"validation P {self.precision:.3f} R {self.recall:.3f} F1 {self.f1:.3f} "
            f"at {self.threshold:.2f}"
        )


def write_history(out: Path, history: tuple[EpochRow, ...], best_epoch: int) -> None:
    """Write ``OUT.history.csv`` and ``OUT.history.png`` beside the model."""
    with (
        whole_file(out.with_suffix(".history.csv"), overwrite=True) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(EpochRow)])
        writer.writerows(asdict(row).values() for row in history)
    with whole_file(out.with_suffix(".history.png"), overwrite=True) as partial:
        _draw_history(partial, history, best_epoch)


class Curves:
    """Events for TensorBoard, where a folder for them is named."""

    def __init__(self, folder: Path | None) -> None:
        """Begin, or go on in a folder that exists.

        Raises:
            MissingExtraError: A folder is named and TensorBoard is not installed.
        """
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                f"Cannot write curves to {folder}: TensorBoard is not installed. Install it with: "
                'pip install "landslip[tensorboard]"'
            ) from error
        self._writer = SummaryWriter(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: EpochRow) -> None:
        """One epoch."""
        if self._writer is None:
            return
        for name, value in asdict(row).items():
            if name != "epoch" and not math.isnan(value):
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()


def _draw_history(path: Path, history: tuple[EpochRow, ...], best_epoch: int) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row.epoch for row in history]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row.loss for row in history], color="#444444")
    left.set(xlabel="epoch", ylabel="training loss")
    for name, colour in (("precision", "#2166ac"), ("recall", "#b2182b"), ("f1", "#111111")):
        values = [getattr(row, name) for row in history]
        if not all(math.isnan(value) for value in values):
            right.plot(epochs, values, color=colour, label="F1" if name == "f1" else name)
    right.axvline(best_epoch, color="#999999", linestyle=":", label=f"kept: epoch {best_epoch}")
    right.set(xlabel="epoch", ylabel="validation, pooled over pixels", ylim=(0, 1))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, format="png")
