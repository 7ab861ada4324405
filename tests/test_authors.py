import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landslip.geo.errors import ModelError
from landslip.learn.authors import AuthorsReport, read_authors_checkpoint

# A checkpoint as the authors' train.py writes it, made from their layer names and shapes alone,
# without our network; and a slow, plain forward that reads it by those names.

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
STEPS = ((2048, 1024), (1024, 512), (512, 256), (256, 64))


class Weights(dict[str, Tensor]):
    def conv(self, name: str, inputs: int, outputs: int, kernel: int = 1) -> None:
        bound = 1 / math.sqrt(inputs * kernel**2)
        self[f"{name}.weight"] = torch.empty(outputs, inputs, kernel, kernel).uniform_(
            -bound, bound
        )

    def biased(self, name: str, inputs: int, outputs: int, kernel: int = 1) -> None:
        self.conv(name, inputs, outputs, kernel)
        self[f"{name}.bias"] = torch.rand(outputs) - 0.5

    def norm(self, name: str, channels: int) -> None:
        for part in ("weight", "running_var"):
            self[f"{name}.{part}"] = torch.rand(channels) + 0.5
        for part in ("bias", "running_mean"):
            self[f"{name}.{part}"] = torch.rand(channels) - 0.5
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)


def authors_weights() -> Weights:
    torch.manual_seed(0)
    w = Weights()
    w.conv("conv1", 3, 64, 7)
    w.norm("bn1", 64)
    inputs = 64
    for stage, (blocks, width) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            w.conv(f"{name}.conv1", inputs, width)
            w.norm(f"{name}.bn1", width)
            w.conv(f"{name}.conv2", width, width, 3)
            w.norm(f"{name}.bn2", width)
            w.conv(f"{name}.conv3", width, 4 * width)
            w.norm(f"{name}.bn3", 4 * width)
            if block == 0:
                w.conv(f"{name}.downsample.0", inputs, 4 * width)
                w.norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    w.biased("head.head.0", 3, 64, 3)
    w.norm("head.head.1", 64)
    for step, (inputs, width) in enumerate(STEPS, start=1):
        w.biased(f"up{step}.up.0", inputs, width)
        w.norm(f"up{step}.add.add.0", 2 * width)
        w.biased(f"up{step}.add.add.2", 2 * width, 2 * width)
        w.biased(f"up{step}.add.smooth", 2 * width, width)
        # Never used; the shapes do not matter.
        for part in ("0", "3"):
            w.biased(f"up{step}.conv.conv.{part}", 1, 1, 3)
        for part in ("1", "4"):
            w.norm(f"up{step}.conv.conv.{part}", 1)
    w.biased("out.up.0", 64, 64)
    w.biased("out.end", 64, 3)
    w["fc.weight"], w["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    return w


DEAD = 2 + 4 * (2 * 2 + 2 * 5)


def authors_forward(w: Weights, image: Tensor) -> Tensor:
    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    def double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    skips = [conv("conv1", image, stride=2)]
    x = F.max_pool2d(norm("bn1", skips[0]).relu(), 3, 2, 1)
    for stage, (blocks, _) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = norm(f"{name}.bn1", conv(f"{name}.conv1", x)).relu()
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)).relu()
            y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
            if block == 0:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
        skips.append(x)
    skips.pop()
    for step in range(1, 5):
        x = torch.cat([double(conv(f"up{step}.up.0", x)), skips.pop()], dim=1)
        residual = F.leaky_relu(norm(f"up{step}.add.add.0", x), 0.2)
        x = conv(f"up{step}.add.smooth", x + conv(f"up{step}.add.add.2", residual))
    head = F.leaky_relu(norm("head.head.1", conv("head.head.0", image)), 0.2)
    return conv("out.end", double(conv("out.up.0", x)) + head)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return authors_weights()


@pytest.fixture(scope="module")
def light(weights: Weights) -> dict[str, Tensor]:
    # Every tensor is one number, repeated: torch.save writes the number alone.
    return {name: value.flatten()[0].clone().expand(value.shape) for name, value in weights.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ckpt.pth"


def test_logits_are_those_of_the_authors_graph(weights: Weights, path: Path) -> None:
    torch.save({"weights": dict(weights), "epoch": 3, "cur_loss": 1.5}, path)
    model, report = read_authors_checkpoint(path)
    assert report == AuthorsReport(ignored_keys=DEAD)
    assert (report.bands, report.outputs) == (("green", "red", "nir"), 3)
    assert not model.training
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = authors_forward(weights, image)
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 0.1
        assert model(torch.rand(1, 3, 33, 47)).shape == (1, 3, 33, 47)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", None])
def test_other_wrappings_are_understood(
    light: dict[str, Tensor], path: Path, key: str | None
) -> None:
    # Of PyTorch 0.4, trained on several cards, without what is never used.
    content = {
        f"module.{name}": value
        for name, value in light.items()
        if "num_batches" not in name and ".conv.conv." not in name and not name.startswith("fc.")
    }
    torch.save(content if key is None else {key: content}, path)
    model, report = read_authors_checkpoint(path)
    assert report.ignored_keys == 0
    found = model.state_dict()
    assert torch.equal(found["out.classify.bias"], light["out.end.bias"])
    assert torch.equal(found["encoder.bn1.running_mean"], light["bn1.running_mean"])


def test_wrong_tensors_are_named(light: dict[str, Tensor], path: Path) -> None:
    content = dict(light)
    del content["up2.up.0.bias"]
    content["aspp.weight"] = torch.zeros(1)
    content["out.end.bias"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(ModelError) as error:
        read_authors_checkpoint(path)
    message = str(error.value)
    assert "1 missing (up2.up.0.bias)" in message
    assert "1 unexpected (aspp.weight)" in message
    assert "1 of another shape (out.end.bias (1,) for (3,))" in message


class Anything:
    pass


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_other_objects_is_refused(path: Path, legacy: bool) -> None:
    content = {"weights": {}, "optimiser": Anything()}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError) as error:
        read_authors_checkpoint(path)
    message = str(error.value)
    assert str(path) in message
    assert message.endswith("with torch.save(model.state_dict(), ...).")
    assert "weights_only" not in message


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}, {"model": 1}])
def test_a_file_without_named_tensors_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(ModelError, match="expected named tensors"):
        read_authors_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_a_broken_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelError, match="broken file"):
        read_authors_checkpoint(path)


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(ModelError, match="Check the path"):
        read_authors_checkpoint(path)
