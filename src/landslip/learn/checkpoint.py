"""Unfinished training beside its output: safetensors and JSON, continued by the same command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from landslip.geo.errors import OutputError
from landslip.geo.output import require_same, whole_file
from landslip.learn.card import write_safetensors
from landslip.learn.engine import AveragedWeights
from landslip.learn.history import EpochRow
from landslip.prepare.scaling import Ranges, Scaling


@dataclass(frozen=True)
class TrainState:
    """Where a training stands."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the epoch that runs."""
    loss_sum: float = 0.0
    """Sum of the losses of those steps."""
    seconds: float = 0.0
    """Time that those steps took (s)."""
    waited_s: float = 0.0
    """Of it, time in which samples were waited for (s)."""
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

    def __init__(self, folder: Path, *, is_new: bool) -> None:
        """Use `Checkpoint.open`."""
        self.folder = folder
        self._is_new = is_new
        self._unwritten: tuple[int, dict[str, torch.Tensor]] | None = None

    @classmethod
    def open(cls, folder: Path, fingerprint: dict[str, Any]) -> Self:
        """Begin, or continue what was begun with the same options and saved.

        Raises:
            OutputError: The folder was begun with other options, or does not tell which.
        """
        record = folder / "options.json"
        asked = json.loads(json.dumps(fingerprint))
        folder.mkdir(parents=True, exist_ok=True)
        found = _json_of(record)
        if (folder / _SAVED).exists():
            if found is None:
                raise OutputError(
                    f"Cannot continue {folder}: its options.json is damaged or lost. Remove the "
                    "folder to start anew."
                )
            require_same(found, asked, folder)
        is_new = found != asked
        if is_new:
            (folder / _GROUND).unlink(missing_ok=True)
            with whole_file(record, overwrite=True) as partial:
                partial.write_text(json.dumps(asked, indent=1), encoding="utf-8")
        return cls(folder, is_new=is_new)

    def forget_if_empty(self) -> None:
        """Remove the folder where it was begun here and nothing was saved in it."""
        if self._is_new and not (self.folder / _SAVED).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def measured(self, measure: Callable[[], tuple[Ranges, Scaling]]) -> tuple[Ranges, Scaling]:
        """Percentiles of the ground, and how it is shown; measured once, then as stored."""
        path = self.folder / _GROUND
        kept = _json_of(path)
        if kept is not None:
            scaling = Scaling(_ranges(kept["scaling"]), bool(kept["quantised"]))
            return _ranges(kept["percentiles"]), scaling
        percentiles, scaling = measure()
        found = {
            "percentiles": percentiles, "scaling": scaling.ranges, "quantised": scaling.quantised,
        }  # fmt: skip
        with whole_file(path, overwrite=True) as partial:
            partial.write_text(json.dumps(found), encoding="utf-8")
        return percentiles, scaling

    def save(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: HoldsState,
        averaged: AveragedWeights | None,
        state: TrainState,
    ) -> None:
        """Write the best weights, then weights, optimizer and state into one file.

        So they always fit together.
        """
        if self._unwritten is not None:
            epoch, best = self._unwritten
            _write(best, self._best(epoch), {})
            self._unwritten = None
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
        _write(tensors, self.folder / _SAVED, metadata)
        for path in self.folder.glob("best-*.safetensors"):
            if path != self._best(state.best_epoch):
                path.unlink()

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: HoldsState,
        averaged: AveragedWeights | None,
    ) -> TrainState:
        """Load what was saved last into all of these; a fresh state where nothing was.

        Raises:
            OutputError: What was saved is damaged.
        """
        path = self.folder / _SAVED
        if not path.exists():
            return TrainState()
        tensors = _read(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        network.load_state_dict(_below(tensors, "network."))
        if averaged is not None:
            averaged.load(_below(tensors, "averaged."))
        weights = [each for group in optimizer.param_groups for each in group["params"]]
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            number, _, name = key.partition(".")
            like = weights[int(number)]
            # In the memory order of its weights, in which the optimizer is fast.
            # Copied in any case: what is read is a view of the file that the next save replaces.
            same = torch.empty_like(like) if value.shape == like.shape else torch.empty_like(value)
            same.copy_(value)
            slots.setdefault(int(number), {})[name] = same
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        precision.load_state_dict(json.loads(metadata["precision"]))
        read = json.loads(metadata["state"])
        read["history"] = tuple(EpochRow(**row) for row in read["history"])
        return TrainState(**read)

    def keep_best(self, weights: dict[str, torch.Tensor], epoch: int) -> None:
        """Keep a copy of the best weights so far; it replaces the last ones in the next save."""
        self._unwritten = epoch, {key: value.detach().clone() for key, value in weights.items()}

    def load_best(self, network: nn.Module, epoch: int) -> None:
        """Put the best weights into the network.

        Raises:
            OutputError: They are damaged.
        """
        if self._unwritten is not None and self._unwritten[0] == epoch:
            network.load_state_dict(self._unwritten[1])
        else:
            network.load_state_dict(_read(self._best(epoch)))

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.safetensors"


_SAVED = "checkpoint.safetensors"
_GROUND = "ground.json"


def _json_of(path: Path) -> Any:
    """What a file holds; None where there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _ranges(kept: list[list[Any]]) -> Ranges:
    return tuple((str(band), float(low), float(high)) for band, low, high in kept)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise OutputError(
            f"Cannot continue {path.parent}: {path.name} is damaged or lost ({error}). Remove the "
            "folder to start anew."
        ) from error


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with whole_file(path, overwrite=True) as partial:
        write_safetensors(plain, partial, metadata)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
