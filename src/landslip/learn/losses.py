"""The losses by name: how wrong a map is.

Every loss takes logits (B, 1, H, W) and labels (B, H, W), uint8: 1 landslide, 0 none, 255 not
labelled. It returns a float32 scalar, punishes false alarms on tiles without landslides, and
gives no gradient to pixels that are not labelled. A new loss is a function and one line in
`LOSSES`; `tests/test_losses.py` then checks it.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from landslip.geo.errors import UsageError

Loss = Callable[[Tensor, Tensor], Tensor]

_UNLABELLED = 255


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, averaged over the labelled pixels; 0 when there are none.

    Raises:
        UsageError: The shapes are not those that the module's text asks for.
    """
    logit, truth, known = _labelled(logits, labels)
    # In float32 even under autocast: a sum over a batch of tiles has no place in half precision.
    total = F.binary_cross_entropy_with_logits(logit, truth, weight=known, reduction="sum")
    return total / known.sum().clamp(min=1)


def bce_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of `bce` and of 1 - soft Dice over the labelled pixels of the whole batch.

    Dice is smoothed by one pixel. Without that it would be 0 on tiles without landslides
    whatever the map says, and false alarms there would cost nothing.

    Source:
        Milletari et al. 2016, V-Net, arXiv:1606.04797, section 3, without the squares.

    Raises:
        UsageError: The shapes are not those that the module's text asks for.
    """
    logit, truth, known = _labelled(logits, labels)
    probability = logit.sigmoid() * known
    hit = (probability * truth).sum()
    dice = (2 * hit + 1) / (probability.sum() + (truth * known).sum() + 1)
    return bce(logits, labels) + 1 - dice


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "bce+dice": bce_dice,
}
"""Name -> loss."""


def _labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, truth and "is labelled", each float32 (B, H, W)."""
    if logits.ndim != 4 or logits.shape[1] != 1 or logits[:, 0].shape != labels.shape:
        raise UsageError(
            f"Cannot compute the loss: expected logits (B, 1, H, W) and labels (B, H, W), "
            f"found {tuple(logits.shape)} and {tuple(labels.shape)}. "
            "Train a model with one output on tiles of its own size."
        )
    return logits[:, 0].float(), (labels == 1).float(), (labels != _UNLABELLED).float()
