import logging
import pickle
import re
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from landslip.geo.errors import ModelError, UsageError
from landslip.learn.card import ModelCard, save_model
from landslip.learn.models import build_model, encoder_of
from landslip.learn.models.encoder_weights import load_encoder_weights
from landslip.learn.models.library import pretrained_encoder

RESNET18 = "library:unet/resnet18"
RGB = ("red", "green", "blue")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def resnet18() -> State:
    """An encoder's weights as torchvision would write them, with the classifier."""
    state = random_state("unet", "resnet18", 3)
    return state | {"fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


def random_state(architecture: str, encoder: str, bands: int) -> State:
    """Weights of an encoder of the library."""
    network = build_model(f"library:{architecture}/{encoder}", bands)
    return randomised(state_of_encoder(network))


def randomised(state: State) -> State:
    """Other values of the same shapes, no tensor like another."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(tensor.shape, generator=generator) + 0.1
        if tensor.is_floating_point()
        else torch.tensor(7)
        for key, tensor in state.items()
    }


def state_of_encoder(network: nn.Module) -> State:
    encoder = encoder_of(network)
    assert encoder is not None
    return encoder.state_dict()


def loaded(source: Path | str, bands: tuple[str, ...] = RGB, name: str = RESNET18) -> State:
    network = build_model(name, len(bands))
    load_encoder_weights(network, name, str(source), bands)
    assert all(module.training for module in network.modules())
    return state_of_encoder(network)


def assert_equal(found: State, expected: State) -> None:
    assert found and set(found) <= set(expected)
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[key]), key


# Files.


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "encoder.",
        "network.encoder.",
        "backbone.",
        "model.",
        "module.encoder_q.",
        "model.module.backbone.",
    ],
)
def test_prefixes_are_stripped(prefix: str, resnet18: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    others = {"decoder.blocks.0.weight": torch.rand(2), "module.encoder_k.conv1.weight": RGB}
    torch.save({prefix + key: tensor for key, tensor in resnet18.items()} | others, path)
    assert_equal(loaded(path), resnet18)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "args": {"lr": 0.1}},
        lambda state: {"model_state_dict": state},
        lambda state: {"encoder": state, "classifier": {"weight": torch.rand(2)}},
        lambda state: {"model": {"state_dict": state}},
    ],
    ids=["state_dict", "model", "model_state_dict", "encoder", "twice"],
)
def test_nested_weights_are_found(
    nest: Callable[[State], object], resnet18: State, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(nest(resnet18), path)
    assert_equal(loaded(path), resnet18)


@pytest.mark.parametrize("name", ["weights.bin", "weights.pth.tar", "weights.safetensors"])
def test_endings(name: str, resnet18: State, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(resnet18, path)
    else:
        torch.save(resnet18, path)
    assert_equal(loaded(path), resnet18)


def test_half_precision_and_a_missing_count_of_batches_are_taken(
    resnet18: State, tmp_path: Path
) -> None:
    half = {key: tensor.half() for key, tensor in resnet18.items() if tensor.is_floating_point()}
    torch.save(half, tmp_path / "half.pth")
    found = loaded(tmp_path / "half.pth")
    assert found["bn1.num_batches_tracked"] == 0
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}
    assert torch.equal(found["layer4.1.conv2.weight"], half["layer4.1.conv2.weight"].float())
    assert torch.equal(found["conv1.weight"], half["conv1.weight"].float())


def test_line_for_the_card(resnet18: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(resnet18, path)
    digest = sha256(path.read_bytes()).hexdigest()[:16]
    network = build_model(RESNET18, 3)
    assert load_encoder_weights(network, RESNET18, str(path), RGB) == (
        f"encoder resnet18 from weights.pth (sha256 {digest}); "
        "first convolution (red, green, blue) as it was"
    )
    network = build_model(RESNET18, 2)
    line = load_encoder_weights(network, RESNET18, str(path), ("nir", "red"))
    assert line.endswith("first convolution (red, green, blue) adapted to nir, red")


@pytest.mark.parametrize("name", ["resunet", "resunet-table1"])
def test_resunet_takes_a_resnet50_of_torchvision(name: str, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    theirs = torchvision.models.resnet50().state_dict()
    torch.save(theirs, tmp_path / "resnet50.pth")
    network = build_model(name, 3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    line = load_encoder_weights(network, name, str(tmp_path / "resnet50.pth"), RGB)
    assert line.startswith("encoder resnet50 from resnet50.pth (sha256 ")
    assert_equal(state_of_encoder(network), theirs)
    after = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    assert_equal(after, before)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext"])
def test_files_of_timm_fit_its_encoders(encoder: str, tmp_path: Path) -> None:
    import timm

    theirs = randomised(timm.create_model(encoder).state_dict())
    save_file(theirs, tmp_path / "model.safetensors")
    found = loaded(tmp_path / "model.safetensors", name=f"library:unet/tu-{encoder}")
    assert_equal({re.sub(r"(stem|stages)_", r"\1.", k[6:]): v for k, v in found.items()}, theirs)


@pytest.mark.parametrize("name", ["unet", "unet-small"])
def test_networks_without_such_an_encoder_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"into model '{name}': it has no encoder"):
        load_encoder_weights(build_model(name, 3), name, "imagenet", RGB)


# The first convolution.


def test_known_bands_take_their_weights_and_others_the_mean(
    resnet18: State, tmp_path: Path
) -> None:
    conv = torch.zeros(64, 3, 7, 7)
    conv[:, 0], conv[:, 1], conv[:, 2] = 1, 2, 9  # the mean is 4
    conv[5, 1] = 5  # there it is 5
    torch.save(resnet18 | {"conv1.weight": conv}, tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth", ("nir", "red", "green", "blue"))["conv1.weight"]
    expected = torch.tensor([4.0, 1, 2, 9]) * 0.75
    assert torch.equal(found[0], expected[:, None, None].expand(4, 7, 7))
    assert torch.equal(found[5, :, 3, 3], torch.tensor([5.0, 1, 5, 9]) * 0.75)
    found = loaded(tmp_path / "w.pth", ("slope",))["conv1.weight"]
    assert torch.equal(found[0], torch.full((1, 7, 7), 12.0))
    found = loaded(tmp_path / "w.pth", ("pre_red", "red"))["conv1.weight"]
    assert torch.equal(found[0, :, 0, 0], torch.tensor([6.0, 1.5]))
    found = loaded(tmp_path / "w.pth", ("green", "red", "nir"))["conv1.weight"]
    assert torch.equal(found[0, :, 0, 0], torch.tensor([2.0, 1, 4]))


def test_sum_over_equal_bands_keeps_its_size(resnet18: State, tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "w.pth")
    grey = resnet18["conv1.weight"].sum(1)
    for bands in [("pan",), ("nir", *RGB), tuple(f"band{i}" for i in range(14))]:
        found = loaded(tmp_path / "w.pth", bands)["conv1.weight"]
        if "red" not in bands:
            torch.testing.assert_close(found.sum(1), grey)
        else:
            torch.testing.assert_close(found.sum(1), (grey + grey / 3) * 0.75)


def test_as_many_channels_as_bands_are_taken_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_state("unet", "resnet18", 4)
    torch.save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        found = loaded(tmp_path / "w.pth", ("nir", *RGB))
    assert_equal(found, state)
    assert "4 channels without names" in caplog.text
    assert "taken to be nir, red, green, blue, in this order" in caplog.text


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    torch.save(random_state("unet", "resnet18", 5), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"3 channels .* or of 2 \(nir, red\), found 5\. Choose"):
        loaded(tmp_path / "w.pth", ("nir", "red"))


def test_a_landslip_model_names_its_bands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = ("green", "slope", "nir", "red")
    network = build_model(RESNET18, 4)
    card = ModelCard(
        name="trained",
        architecture=RESNET18,
        total_parameters=1,
        bands=theirs,
        scaling=tuple((band, 0.0, 1.0) for band in theirs),
        pixel_size_m=1,
        halo_px=128,
        stride_px=32,
    )
    save_model(tmp_path / "trained.safetensors", network, card)
    trained = state_of_encoder(network)
    found = loaded(tmp_path / "trained.safetensors", ("red", "nir", "blue"))
    conv = trained["conv1.weight"]
    assert torch.equal(
        found.pop("conv1.weight"),
        torch.stack([conv[:, 3], conv[:, 2], conv.mean(1)], dim=1) * (4 / 3),
    )
    assert_equal(found, trained)
    assert_equal(loaded(tmp_path / "trained.safetensors", theirs), trained)
    assert not caplog.records


def test_both_first_convolutions_of_mobileone_are_adapted(tmp_path: Path) -> None:
    state = random_state("unet", "mobileone_s0", 3)
    torch.save(state, tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth", ("blue", "green", "red"), "library:unet/mobileone_s0")
    stems = [key for key in state if key.startswith("stage0.") and "conv.weight" in key]
    assert len(stems) == 2
    for key in stems:
        assert torch.equal(found.pop(key), state[key].flip(1))
    assert_equal(found, state)


def test_transformer_takes_other_bands(tmp_path: Path) -> None:
    state = random_state("dpt", "tu-test_vit", 3)
    torch.save(state, tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth", ("blue", "nir"), "library:dpt/tu-test_vit")
    weight = state["model.patch_embed.proj.weight"]
    expected = torch.stack([weight[:, 2], weight.mean(1)], dim=1) * 1.5
    assert torch.equal(found.pop("model.patch_embed.proj.weight"), expected)
    assert_equal(found, state)


def test_encoder_that_rearranges_the_bands_first_is_refused(tmp_path: Path) -> None:
    name = "library:unet/tu-tresnet_m"
    save_file({"weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="no convolution that takes the bands themselves"):
        loaded(tmp_path / "w.safetensors", RGB, name)


# Files that do not fit.


def test_weights_of_another_encoder_are_refused(resnet18: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(resnet18, path)
    network = build_model("library:unet/resnet34", 3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(
        ModelError,
        match=r"w\.pth \(sha256 .*: 100 of the 180 tensors of the encoder of "
        r"'library:unet/resnet34' are in it; the first missing is layer1\.2\.conv1\.weight, "
        r"expected \(64, 64, 3, 3\), found nothing of that name\. .* with --model the encoder",
    ):
        load_encoder_weights(network, "library:unet/resnet34", str(path), RGB)
    assert_equal(network.state_dict(), before)


@pytest.mark.parametrize("key", ["conv1.weight", "layer3.0.conv1.weight", "bn1.running_var"])
def test_missing_and_misshaped_tensors_are_refused(
    key: str, resnet18: State, tmp_path: Path
) -> None:
    rest = {name: tensor for name, tensor in resnet18.items() if name != key}
    torch.save(rest, tmp_path / "w.pth")
    message = f"99 of the 100 tensors .* first missing is {re.escape(key)}, .* found nothing"
    with pytest.raises(ModelError, match=message):
        loaded(tmp_path / "w.pth")
    torch.save(rest | {key: torch.rand(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=rf"is {re.escape(key)}, .* found \(3,\)\. Choose"):
        loaded(tmp_path / "w.pth")


def test_two_encoders_in_one_file_are_refused_unless_they_are_the_same(
    resnet18: State, tmp_path: Path
) -> None:
    again = {f"model.encoder.{key}": tensor for key, tensor in resnet18.items()}
    torch.save(resnet18 | again, tmp_path / "w.pth")
    assert_equal(loaded(tmp_path / "w.pth"), resnet18)
    again["model.encoder.bn1.bias"] = torch.rand(64)
    torch.save(resnet18 | again, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"one tensor named bn1\.bias, found several"):
        loaded(tmp_path / "w.pth")


class Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_pickles_with_code_are_refused_and_not_run(
    save: str, resnet18: State, tmp_path: Path
) -> None:
    content = {"state_dict": resnet18, "hyperparameters": Code(tmp_path / "it-ran")}
    if save == "torch":
        torch.save(content, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(
            pickle.dumps({"code": Code(tmp_path / "it-ran")}, protocol=2)
        )
    with pytest.raises(ModelError, match="expected a PyTorch file with tensors alone") as error:
        loaded(tmp_path / "w.pth")
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match=f"Cannot load encoder weights .*{name}: .*"):
        loaded(tmp_path / name)
    with pytest.raises(ModelError, match=r"not-there\.pth: there is no such file"):
        loaded(tmp_path / "not-there.pth")


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ([1, 2], "found list"),
        ({"student": {"conv1.weight": 1}, "epoch": 1}, "found student, epoch"),
        ({"state_dict": {}}, "found dict"),
    ],
)
def test_files_without_tensors_are_refused(content: object, held: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=rf"expected named tensors, .*; {held}\. Save"):
        loaded(tmp_path / "w.pth")


# The library's weights.


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the library, and no network."""

    def no_network(*_arguments: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("name", "repository"),
    [
        (RESNET18, "smp-hub/resnet18.imagenet"),
        ("library:dpt/tu-test_vit", "timm/test_vit.r160_in1k"),
        ("resunet", "smp-hub/resnet50.imagenet"),
    ],
)
def test_imagenet_without_a_network_says_what_to_do(name: str, repository: str) -> None:
    network = build_model(name, 3)
    with pytest.raises(ModelError) as error:
        load_encoder_weights(network, name, "imagenet", RGB)
    text = str(error.value)
    assert text.startswith("Cannot download encoder weights 'imagenet' for ")
    assert f"tried https://huggingface.co/{repository}, found " in text
    assert "Download its model.safetensors elsewhere" in text
    assert text.endswith("--encoder-weights FILE.")


def test_imagenet_comes_from_the_cache_of_the_library(hub_cache: Path, resnet18: State) -> None:
    import segmentation_models_pytorch as smp

    place = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    folder = hub_cache / "models--smp-hub--resnet18.imagenet" / "snapshots" / place["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(resnet18, folder / "model.safetensors")
    assert_equal(loaded("imagenet"), resnet18)
    assert torch.equal(
        loaded("imagenet", ("green", "nir"))["conv1.weight"],
        torch.stack([resnet18["conv1.weight"][:, 1], resnet18["conv1.weight"].mean(1)], dim=1)
        * 1.5,
    )
    line = load_encoder_weights(build_model(RESNET18, 3), RESNET18, "imagenet", RGB)
    assert line == (
        "encoder resnet18 from 'imagenet' of segmentation_models_pytorch "
        "(smp-hub/resnet18.imagenet); first convolution (red, green, blue) as it was"
    )


@pytest.mark.parametrize(
    ("encoder", "weights", "has"),
    [
        ("resnet18", "imagnet", "imagenet, ssl, swsl"),
        ("resnext101_32x16d", "imagenet", "instagram, ssl, swsl"),
        ("tu-test_resnet", "ssl", "imagenet"),
        ("tu-mobilenetv2_035", "imagenet", "none"),
    ],
)
def test_weights_that_the_library_does_not_have_are_refused(
    encoder: str, weights: str, has: str
) -> None:
    message = f"weights '{weights}' for {encoder}: the library has {has}. Choose .*FILE"
    with pytest.raises(UsageError, match=message):
        pretrained_encoder("unet", encoder, weights)
