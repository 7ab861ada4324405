"""The losses by name: how wrong a map is.

Every loss takes logits (B, 1, H, W), labels (B, H, W), uint8: 1 landslide, 0 none, 255 not
labelled, and weights (B, H, W), float32: how much a pixel counts, or None: all alike. It returns a
float32 scalar, punishes false alarms on tiles without landslides, and gives no gradient to pixels
that are not labelled. A new loss is a function and one line in `LOSSES`; `tests/test_losses.py`
then checks it.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from landslip.geo.errors import UsageError

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_UNLABELLED = 255
FOCUS = 2.0
"""Exponent of the focal loss: how much less a pixel counts that is nearly right."""
MISS_SHARE = 0.7
"""Part of the Tversky loss that misses cost; false alarms cost the rest."""


def bce(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, averaged over the labelled pixels; 0 when there are none.

    Raises:
        UsageError: The shapes are not those that the module's text asks for.
    """
    logit, truth, known = _labelled(logits, labels)
    counted = known if weights is None else known * weights
    # In float32 even under autocast: a sum over a batch of tiles has no place in half precision.
    total = F.binary_cross_entropy_with_logits(logit, truth, weight=counted, reduction="sum")
    return total / known.sum().clamp(min=1)


def bce_dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of `bce` and of 1 - soft Dice over the labelled pixels of the whole batch.

    Dice is smoothed by one pixel. Without that it would be 0 on tiles without landslides
    whatever the map says, and false alarms there would cost nothing. Weights count in `bce` alone.

    Source:
        Milletari et al. 2016, V-Net, arXiv:1606.04797, section 3, without the squares.

    Raises:
        UsageError: The shapes are not those that the module's text asks for.
    """
    return bce(logits, labels, weights) + _overlap_loss(logits, labels, miss=0.5, false_alarm=0.5)


def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy in which pixels that are nearly right count little.

    Source:
        Lin et al. 2017, Focal Loss for Dense Object Detection, arXiv:1708.02002, equation 4.

    Raises:
        UsageError: The shapes are not those that the module's text asks for.
    """
    logit, truth, known = _labelled(logits, labels)
    counted = known if weights is None else known * weights
    each = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    wrong = (truth - logit.sigmoid()).abs()
    return (counted * wrong**FOCUS * each).sum() / known.sum().clamp(min=1)


def tversky(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """`bce` and 1 - Tversky index, in which a missed pixel costs more than a false alarm.

    The index is smoothed by one pixel, for the reason given at `bce_dice`. Alone it leaves pixels
    that are far off without a gradient; `bce` gives them one.

    Source:
        Salehi et al. 2017, arXiv:1706.05721, equation 3, with alpha 0.3 and beta 0.7.

    Raises:
        UsageError: The shapes are not those that the module's text asks for.
    """
    overlap = _overlap_loss(logits, labels, miss=MISS_SHARE, false_alarm=1 - MISS_SHARE)
    return bce(logits, labels, weights) + overlap


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "bce+dice": bce_dice,
    "focal": focal,
    "tversky": tversky,
}
"""Name -> loss."""


def _overlap_loss(logits: Tensor, labels: Tensor, *, miss: float, false_alarm: float) -> Tensor:
    """1 - hits / (hits + misses and false alarms by their price), smoothed by one pixel."""
    logit, truth, known = _labelled(logits, labels)
    probability = logit.sigmoid() * known
    hit = (probability * truth).sum()
    missed = (truth * known).sum() - hit
    wrong = probability.sum() - hit
    return 1 - (hit + 0.5) / (hit + miss * missed + false_alarm * wrong + 0.5)


def _labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, truth and "is labelled", each float32 (B, H, W)."""
    if logits.ndim != 4 or logits.shape[1] != 1 or logits[:, 0].shape != labels.shape:
        raise UsageError(
            f"Cannot compute the loss: expected logits (B, 1, H, W) and labels (B, H, W), "
            f"found {tuple(logits.shape)} and {tuple(labels.shape)}. "
            "Train a model with one output on tiles of its own size."
        )
    return logits[:, 0].float(), (labels == 1).float(), (labels != _UNLABELLED).float()
