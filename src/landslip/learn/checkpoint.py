"""Unfinished training beside its output: safetensors and JSON, continued by the same command."""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from landslip.geo.output import require_same, whole_file
from landslip.learn.card import write_safetensors
from landslip.prepare.scaling import Ranges

log = logging.getLogger(__name__)


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

    def text(self, epochs: int) -> str:
        """For people."""
        return (
            f"epoch {self.epoch}/{epochs}: loss {self.loss:.4f}, rate {self.learning_rate:.1e}, "
            f"validation P {self.precision:.3f} R {self.recall:.3f} F1 {self.f1:.3f} "
            f"at {self.threshold:.2f}"
        )


@dataclass(frozen=True)
class TrainState:
    """Where a training stands."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the epoch that runs."""
    loss_sum: float = 0.0
    """Sum of the losses of those steps."""
    best_f1: float = -1.0
    """Largest F1 on validation so far."""
    best_epoch: int = 0
    """Epoch of `best_f1`, from 1."""
    history: tuple[EpochRow, ...] = ()
    """A row an epoch."""


class Checkpoint:
    """The folder of an unfinished training. Every save replaces the last one at once."""

    def __init__(self, folder: Path, percentiles: Ranges | None) -> None:
        """Use `Checkpoint.open`."""
        self.folder = folder
        self.percentiles = percentiles

    @classmethod
    def open(cls, folder: Path, fingerprint: dict[str, Any]) -> Self:
        """Begin, or continue what was begun with the same options.

        Raises:
            OutputError: The folder was begun with other options.
        """
        record = folder / "options.json"
        asked = json.loads(json.dumps(fingerprint))
        if record.exists():
            found = json.loads(record.read_text(encoding="utf-8"))
            require_same(found, asked, folder)
        else:
            with whole_file(record, overwrite=True) as partial:
                partial.write_text(json.dumps(asked, indent=1), encoding="utf-8")
        kept = folder / "percentiles.json"
        percentiles = None
        if kept.exists():
            read = json.loads(kept.read_text(encoding="utf-8"))
            percentiles = tuple((str(band), float(low), float(high)) for band, low, high in read)
        return cls(folder, percentiles)

    @staticmethod
    def forget_empty(folder: Path) -> None:
        """Remove the options of a training that has saved nothing."""
        if not (folder / "checkpoint.safetensors").exists():
            for name in ("options.json", "percentiles.json"):
                (folder / name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()

    def keep_percentiles(self, percentiles: Ranges) -> None:
        """Store what was measured of the ground, so that it is measured once."""
        with whole_file(self.folder / "percentiles.json", overwrite=True) as partial:
            partial.write_text(json.dumps(percentiles), encoding="utf-8")

    def save(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        state: TrainState,
    ) -> None:
        """Write weights, optimizer and state into one file, so that they always fit together."""
        tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
        for number, slots in optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                if value is not None:
                    tensors[f"optimizer.{number}.{key}"] = value
        metadata = {"state": json.dumps(asdict(state)), "scaler": json.dumps(scaler.state_dict())}
        _write(tensors, self.folder / "checkpoint.safetensors", metadata)

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> TrainState:
        """Load what was saved last into network and optimizer; a fresh state where nothing was."""
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return TrainState()
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        network.load_state_dict(_below(tensors, "network."))
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            number, _, name = key.partition(".")
            slots.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        scaler.load_state_dict(json.loads(metadata["scaler"]))
        read = json.loads(metadata["state"])
        read["history"] = tuple(EpochRow(**row) for row in read["history"])
        return TrainState(**read)

    def save_best(self, network: nn.Module) -> None:
        """Keep these weights as the best so far."""
        _write(dict(network.state_dict()), self.folder / "best.safetensors", {})

    def load_best(self, network: nn.Module) -> None:
        """Put the best weights into the network."""
        network.load_state_dict(load_file(self.folder / "best.safetensors"))

    def write_history(self, out: Path, history: tuple[EpochRow, ...], best_epoch: int) -> None:
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


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with whole_file(path, overwrite=True) as partial:
        write_safetensors(plain, partial, metadata)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _draw_history(path: Path, history: tuple[EpochRow, ...], best_epoch: int) -> None:
    from matplotlib.figure import Figure

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
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, format="png")
