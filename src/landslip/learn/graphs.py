"""A step's arithmetic as one CUDA graph: sent to the GPU at once instead of kernel by kernel.

A processor takes longer to send the two thousand kernels of a small step than a fast GPU to
compute them. So forward, loss and backward are recorded once for each shape of batch, and replayed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landslip.learn.batches import Batch
from landslip.learn.device import Compute

log = logging.getLogger(__name__)

WARM_UP = 2
"""Steps before the recording, in which libraries prepare themselves and choose algorithms."""
MOST_SHAPES = 2
"""An epoch has batches of one size, or of two that differ by one sample."""
Gradients = Callable[[Batch], Tensor]
"""Computes the loss of a batch on the device, and leaves its gradients on the weights."""


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    batch: Batch
    """Where the graph reads; each replay's samples are copied there."""
    loss: Tensor
    gradients: list[Tensor | None]
    """Where the graph writes, by parameter."""


class StepGraphs:
    """What a network learns from a batch, recorded by shape and replayed.

    Where a network cannot be recorded, because it asks the GPU something on the way, or memory
    does not suffice, `gradients` tells so by None, and the caller computes as ever.

    Source:
        PyTorch documentation, CUDA semantics, "CUDA Graphs", whole-network capture.
    """

    def __init__(self, network: nn.Module, compute: Compute, learn: Gradients) -> None:
        """Nothing is recorded before the first batch.

        Args:
            network: Whose weights learn, on a CUDA device and in training mode.
            compute: The device.
            learn: What is recorded.
        """
        self._network = network
        self._compute = compute
        self._learn = learn
        self._stream = torch.cuda.Stream(compute.device)
        self._recordings: dict[torch.Size, _Recording] = {}
        self._works = True

    @classmethod
    def where_they_help(
        cls, network: nn.Module, compute: Compute, processes: int, learn: Gradients
    ) -> StepGraphs | None:
        """Graphs on one GPU; None elsewhere.

        Processes that share gradients, and the loss scale of fp16, need the processor every step.
        """
        alone = processes == 1 and compute.device.type == "cuda"
        return cls(network, compute, learn) if alone and compute.precision != "fp16" else None

    def gradients(self, batch: Batch) -> Tensor | None:
        """Compute the gradients of a batch, as a replay; returns the loss, or None: not done."""
        shape = batch.images.shape
        if shape not in self._recordings:
            if not self._works or len(self._recordings) == MOST_SHAPES:
                return None
            try:
                self._recordings[shape] = self._record(batch.each(self._compute.send))
            except RuntimeError as error:
                log.debug("steps are sent kernel by kernel: %s", error)
                self._works = False
                return None
        recording = self._recordings[shape]
        for own, new in zip(recording.batch.tensors, batch.tensors, strict=True):
            own.copy_(new, non_blocking=True)
        for weights, gradient in zip(self._network.parameters(), recording.gradients, strict=True):
            weights.grad = gradient
        recording.graph.replay()
        return recording.loss.clone()

    def _record(self, batch: Batch) -> _Recording:
        """The graph of batches like this one; weights, statistics and chance stay as they were."""
        with self._undone(), _fastest_algorithms():
            self._stream.wait_stream(torch.cuda.current_stream(self._compute.device))
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    self._network.zero_grad(set_to_none=True)
                    self._learn(batch)
            torch.cuda.current_stream(self._compute.device).wait_stream(self._stream)
            # Without gradients, so that the graph writes them instead of adding to them.
            self._network.zero_grad(set_to_none=True)
            others = [recording.graph.pool() for recording in self._recordings.values()]
            graph = torch.cuda.CUDAGraph()
            # Threads that read tiles pin memory meanwhile, which another mode forbids.
            with torch.cuda.graph(
                graph, pool=others[0] if others else None, stream=self._stream,
                capture_error_mode="thread_local",
            ):  # fmt: skip
                loss = self._learn(batch)
            return _Recording(graph, batch, loss, [w.grad for w in self._network.parameters()])

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Batch statistics, random numbers and gradients as before, whatever happens inside."""
        device = self._compute.device
        chance = torch.cuda.get_rng_state(device)
        before = [buffer.clone() for buffer in self._network.buffers()]
        try:
            yield
        finally:
            for buffer, value in zip(self._network.buffers(), before, strict=True):
                buffer.copy_(value)
            torch.cuda.set_rng_state(chance, device)
            self._network.zero_grad(set_to_none=True)


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """CuDNN times its algorithms for each shape: worth it for shapes that come all the time."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
