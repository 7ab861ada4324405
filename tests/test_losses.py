import pytest
import torch
from torch import Tensor

from landslip.geo.errors import UsageError
from landslip.learn.losses import LOSSES, Loss, bce, bce_dice


@pytest.fixture(params=list(LOSSES))
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param]


def some_logits(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 1, 8, 9, generator=generator, requires_grad=True)


def some_labels(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 2, (batch, 8, 9), generator=generator, dtype=torch.uint8)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


# The contract of every loss.


def test_false_alarms_cost_on_tiles_without_landslides(loss: Loss) -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    quiet = torch.full((1, 1, 8, 8), -6.0)
    alarm = quiet.clone()
    alarm[..., 2:5, 2:5] = 3.0
    alarm.requires_grad_()
    value = loss(alarm, labels, None)
    assert value > loss(quiet, labels, None) + 0.1
    assert (gradient(value, alarm) > 0).all()  # a step down lowers every probability


def test_pixels_without_label_give_no_gradient_and_do_not_count(loss: Loss) -> None:
    logits, labels = some_logits(), some_labels()
    labels[:, :3] = 255
    value = loss(logits, labels, None)
    assert not gradient(value, logits)[:, :, :3].any()
    assert gradient(value, logits)[:, :, 3:].all()

    other = logits.detach().clone()
    other[:, :, :3] = 100.0
    assert loss(other, labels, None) == value


def test_no_label_at_all_costs_nothing(loss: Loss) -> None:
    logits = some_logits()
    value = loss(logits, torch.full((2, 8, 9), 255, dtype=torch.uint8), None)
    assert value == 0
    assert not gradient(value, logits).any()


def test_truth_costs_next_to_nothing_and_its_opposite_much(loss: Loss) -> None:
    labels = some_labels()
    truth = (labels.float() * 2 - 1)[:, None] * 20
    assert loss(truth, labels, None) < 1e-3
    assert loss(-truth, labels, None) > 10


def test_half_precision_logits_are_computed_in_float32(loss: Loss) -> None:
    logits = some_logits().detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, some_labels(), None)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), some_labels(), None))


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_logits_stay_finite(loss: Loss, extreme: float) -> None:
    logits = torch.full((1, 1, 4, 4), extreme, requires_grad=True)
    value = loss(logits, some_labels(1)[:, :4, :4], None)
    assert value.isfinite()
    assert gradient(value, logits).isfinite().all()


@pytest.mark.parametrize(
    ("logits", "labels"), [((2, 3, 8, 8), (2, 8, 8)), ((2, 1, 8, 8), (2, 8, 9)), ((8, 8), (8, 8))]
)
def test_other_shapes_are_refused(
    loss: Loss, logits: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match="Cannot compute the loss"):
        loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.uint8), None)


# The values themselves.


def test_bce_is_the_mean_over_labelled_pixels() -> None:
    logits, labels = some_logits(), some_labels()
    labels[0, 0] = 255
    known = labels != 255
    probability = logits[:, 0][known].double().sigmoid()
    truth = labels[known].double()
    slow = -(truth * probability.log() + (1 - truth) * (1 - probability).log()).mean()
    assert bce(logits, labels).item() == pytest.approx(slow.item(), rel=1e-6)


def test_dice_is_taken_over_the_whole_batch() -> None:
    logits = torch.tensor([[[[20.0, 20.0]]], [[[-20.0, 20.0]]]])
    labels = torch.tensor([[[1, 0]], [[1, 255]]], dtype=torch.uint8)
    # One hit, one false alarm, one miss, one pixel not labelled: (2 * 1 + 1) / (2 + 2 + 1).
    dice = bce_dice(logits, labels) - bce(logits, labels)
    assert dice.item() == pytest.approx(1 - 3 / 5, abs=1e-5)
