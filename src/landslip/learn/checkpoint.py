"""Unfinished training beside its output: safetensors and JSON, continued by the same command."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from landslip.geo.output import require_same, whole_file
from landslip.learn.card import write_safetensors
from landslip.learn.engine import AveragedWeights
from landslip.learn.history import EpochRow
from landslip.prepare.scaling import Ranges


@dataclass(frozen=True)
class TrainState:
    """Where a training stands."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the epoch that runs."""
    loss_sum: float = 0.0
    """Sum of the losses of those steps."""
    best_f1: float = -2.0
    """Largest F1 on validation so far; -1 where it was undefined, below that before any."""
    best_epoch: int = 0
    """Epoch of `best_f1`, from 1; 0: what training started from."""
    history: tuple[EpochRow, ...] = ()
    """A row an epoch."""


class HoldsState(Protocol):
    """What the engine keeps of a precision: the scale of fp16's gradients, or nothing."""

    def state_dict(self) -> dict[str, Any]:
        """To be saved."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was saved."""
        ...


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
        precision: HoldsState,
        averaged: AveragedWeights | None,
        state: TrainState,
    ) -> None:
        """Write weights, optimizer and state into one file, so that they always fit together."""
        tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
        if averaged is not None:
            tensors |= {f"averaged.{key}": value for key, value in averaged.values.items()}
        for number, slots in optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                if value is not None:
                    tensors[f"optimizer.{number}.{key}"] = value
        metadata = {
            "state": json.dumps(asdict(state)),
            "precision": json.dumps(precision.state_dict()),
        }
        _write(tensors, self.folder / "checkpoint.safetensors", metadata)

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: HoldsState,
        averaged: AveragedWeights | None,
    ) -> TrainState:
        """Load what was saved last into all of these; a fresh state where nothing was."""
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return TrainState()
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        network.load_state_dict(_below(tensors, "network."))
        if averaged is not None:
            averaged.load(_below(tensors, "averaged."))
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            number, _, name = key.partition(".")
            slots.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        precision.load_state_dict(json.loads(metadata["precision"]))
        read = json.loads(metadata["state"])
        read["history"] = tuple(EpochRow(**row) for row in read["history"])
        return TrainState(**read)

    def save_best(self, weights: dict[str, torch.Tensor]) -> None:
        """Keep these weights as the best so far."""
        _write(weights, self.folder / "best.safetensors", {})

    def load_best(self, network: nn.Module) -> None:
        """Put the best weights into the network."""
        network.load_state_dict(load_file(self.folder / "best.safetensors"))


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with whole_file(path, overwrite=True) as partial:
        write_safetensors(plain, partial, metadata)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
