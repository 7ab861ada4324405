"""Where a network runs, and how precisely it computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from landslip.geo.errors import UsageError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    """cpu, cuda or mps."""
    precision: str
    """Key of `PRECISIONS`; weights stay float32, arithmetic runs in this."""

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "auto") -> Compute:
        """The best that this machine has, or what was asked for.

        Args:
            device: auto, cpu, cuda, cuda:N or mps.
            precision: auto, float32, bf16 or fp16.

        Raises:
            UsageError: The device or the precision is not there.
        """
        chosen = _device(device)
        if precision == "auto":
            return cls(chosen, _fast_precision(chosen))
        if precision not in PRECISIONS or (precision == "fp16" and chosen.type == "cpu"):
            raise UsageError(
                f"Cannot compute in '{precision}' on {chosen.type}: expected auto, float32, bf16"
                f"{'' if chosen.type == 'cpu' else ', fp16'}."
            )
        return cls(chosen, precision)

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a network is called."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision])

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory order that is fastest."""
        # mypy does not know this overload of Module.to.
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """Move a tensor to the device; images (B, C, H, W) in the memory order that is fastest.

        From pinned memory a GPU copies while it computes, and nobody waits.
        """
        order = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(self.device, memory_format=order, non_blocking=self.device.type == "cuda")

    @property
    def text(self) -> str:
        """For people and records."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"{self.device.type} with {torch.get_num_threads()} threads, {self.precision}"


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"Cannot use device '{name}': expected auto, cpu, cuda, cuda:N or mps."
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UsageError(
            f"Cannot use device '{name}': this machine or this build of torch has none. "
            "Use --device cpu."
        )
    return device


def _fast_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16"
    return "float32"


def _cpu_has_bf16() -> bool:
    """True where the processor multiplies bf16 itself; without it bf16 is slower than float32."""
    asks = [
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(bool(ask()) for ask in asks if ask is not None)
