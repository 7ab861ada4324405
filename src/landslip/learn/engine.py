"""What carries the training loop: devices and processes, averaged weights, memory that runs out."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from landslip.geo.errors import UsageError
from landslip.geo.parallel import processes_here
from landslip.learn.device import Compute

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_FABRIC_PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def launch(compute: Compute) -> tuple[Fabric, Compute]:
    """Join the processes that train together: one, or as many as `torchrun` has started.

    Args:
        compute: Device and precision, as chosen for one process.

    Returns:
        The engine, and the device and precision of this process.

    Raises:
        UsageError: Several processes with a device that they cannot share.
    """
    from lightning_fabric import Fabric

    # It tells the precision on its own; our own line does.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind, index = compute.device.type, compute.device.index
    local = processes_here()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and (kind == "mps" or index is not None):
        raise UsageError(
            f"Cannot train in {world} processes on {compute.device}: each needs a device of its "
            "own. Use --device cuda or --device cpu."
        )
    with warnings.catch_warnings():
        # What it says of tensor cores and of the launcher is decided here.
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=kind,
            devices=[index] if index is not None and kind == "cuda" else local,
            num_nodes=world // local,
            # Some encoders have layers after the last features that a decoder takes.
            strategy="ddp_find_unused_parameters_true" if world > 1 else "auto",
            precision=_FABRIC_PRECISIONS[compute.precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric, replace(compute, device=fabric.device)


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Algorithms that give the same bits every time, where they are asked for."""
    before = torch.are_deterministic_algorithms_enabled()
    if asked:
        # cuBLAS is deterministic only with a fixed workspace, set before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def share_statistics(network: nn.Module) -> None:
    """Give all processes the statistics of the first; each has gathered its own from its share."""
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, 0)


class AveragedWeights:
    """An exponential average of a network's weights and statistics.

    Source:
        Polyak and Juditsky 1992; the short memory at the beginning as in Tan and Le 2019,
        EfficientNet (their code).
    """

    def __init__(self, network: nn.Module, keep: float) -> None:
        """Begin with the weights as they are.

        Args:
            network: What is averaged.
            keep: Share that a step keeps, below 1; less in the first steps.
        """
        self._keep = keep
        # Views of the network: they hold what its weights are at any time.
        self.followed = {key: value.detach() for key, value in network.state_dict().items()}
        self.values = {key: value.clone() for key, value in self.followed.items()}
        moving = {key for key, value in self.followed.items() if value.is_floating_point()}
        self._moving = self._pairs(moving)
        self._counts = self._pairs(self.followed.keys() - moving)

    def _pairs(self, keys: Set[str]) -> tuple[list[Tensor], list[Tensor]]:
        """The averages of these, and what they follow."""
        chosen = [key for key in self.followed if key in keys]
        return [self.values[key] for key in chosen], [self.followed[key] for key in chosen]

    def update(self, step: int) -> None:
        """Take in the weights after step number `step` of the training, from 1."""
        keep = min(self._keep, (1 + step) / (10 + step))
        # All tensors at once: on a GPU a kernel each would take longer than the arithmetic.
        get_ema_multi_avg_fn(keep)(*self._moving, 0)
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)

    def load(self, values: dict[str, Tensor]) -> None:
        """Continue from stored values."""
        for key, value in values.items():
            self.values[key].copy_(value)


def is_out_of_memory(error: Exception) -> bool:
    """True for what torch raises where a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(
            text in str(error) for text in ("allocate memory", "not enough memory", "out of memory")
        )
    )


def groups_of_parameters(
    network: nn.Module, encoder: nn.Module | None, encoder_rate: float
) -> list[dict[str, object]]:
    """Parameters for an optimizer: those of the encoder apart where it learns at another rate.

    Each group holds `share`, its part of the learning rate.
    """
    if encoder is None or encoder_rate == 1:
        return [{"params": list(network.parameters()), "share": 1.0}]
    own = {id(weights) for weights in encoder.parameters()}
    return [
        {"params": [w for w in network.parameters() if id(w) not in own], "share": 1.0},
        {"params": list(encoder.parameters()), "share": encoder_rate},
    ]


def fix_statistics(network: nn.Module) -> None:
    """Let batch normalisation use its stored means and variances; its weights still learn."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
