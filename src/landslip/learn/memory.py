"""How much memory a network takes to look at a window, counted on a small one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(
    network: nn.Module, shape: tuple[int, int, int, int], device: torch.device | str = "cpu"
) -> int:
    """Most memory that tensors take at once while a network predicts, in float32 (bytes).

    The tensors of one forward are counted, not measured, so the answer is always the same, and
    grows with the pixels. (torch's `meta` device would compute nothing, but load a compiler first,
    which takes longer.) Weights are not counted, nor what libraries take for themselves: measured
    on a processor, a forward takes up to 1.2 times as much, and up to 1.8 times where what is freed
    is kept, because large tensors do not fit into every gap.

    Args:
        network: In evaluation mode.
        shape: Of its input, (B, C, H, W); a small one will do.
        device: Where the network is.
    """
    with torch.inference_mode(), _Living() as living:
        network(torch.zeros(shape, device=device))
    peak: int = living.peak
    return peak


class _Living(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._sizes: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so torch need not load its compiler, which takes a second."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._sizes.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._sizes.values()))
        return made
