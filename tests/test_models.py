from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from landslip.geo.errors import UsageError
from landslip.learn.models import MODELS, build_model, encoder_of, model_entry
from landslip.learn.models.resunet import ResUNet, ResUNetTable1

LIBRARY = "library:unet/resnet18"
ARCHITECTURES = [
    "deeplabv3", "deeplabv3plus", "dpt", "fpn", "linknet", "manet", "pan", "pspnet", "segformer",
    "unet", "unetplusplus", "upernet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[*MODELS, LIBRARY], scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 3).eval()


# The contract: every model of the registry, and one of the library.


@pytest.mark.parametrize("size", [(33, 47), (7, 5)])
def test_any_size_gives_logits_of_that_size(model: nn.Module, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = model(torch.rand(1, 3, *size))
    assert logits.shape == (1, 1, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("bands", [1, 4, 14])
def test_any_number_of_bands(name: str, bands: int) -> None:
    with torch.device("meta"):  # shapes alone, at no cost
        network = build_model(name, bands, 2)
        assert network(torch.rand(2, bands, 33, 64)).shape == (2, 2, 33, 64)


def test_gradients_reach_every_parameter(model: nn.Module) -> None:
    # In evaluation mode: normalising by the batch takes the gradient of a bias before it away.
    model.zero_grad()
    model(torch.rand(1, 3, 40, 36)).square().mean().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any() or not parameter.grad.isfinite().all()
    ]
    model.zero_grad()
    assert not without


def test_state_dict_rebuilds_the_model(name: str, model: nn.Module) -> None:
    with torch.device("meta"):  # whatever the state dict leaves out has no values
        again = build_model(name, 3).eval()
    again.load_state_dict(model.state_dict(), assign=True)
    image = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(model(image), again(image))


# The networks of the paper.


@pytest.mark.parametrize(
    ("name", "outputs", "expected"),
    [
        ("unet", 1, 31_037_633),
        ("resunet", 1, 34_580_033),
        ("resunet", 3, 34_580_163),
        ("resunet-table1", 1, 26_960_769),
        ("resunet-table1", 3, 26_960_899),
    ],
)
def test_parameter_count(name: str, outputs: int, expected: int) -> None:
    with torch.device("meta"):
        network = build_model(name, 3, outputs)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_table1_has_56_convolutions_and_4_projections() -> None:
    with torch.device("meta"):
        network = build_model("resunet-table1", 3)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    projections = [name for name in names if "downsample" in name]
    assert (len(names) - len(projections), len(projections)) == (56, 4)


ENCODER_SIZES = {
    "encoder.conv1": (64, 300, 300),
    "encoder.maxpool": (64, 150, 150),
    "encoder.layer1": (256, 150, 150),
    "encoder.layer2": (512, 75, 75),
    "encoder.layer3": (1024, 38, 38),
    "encoder.layer4": (2048, 19, 19),
    "head": (64, 600, 600),
    "out": (1, 600, 600),
}


@pytest.mark.parametrize(
    ("build", "up_channels"),
    [(ResUNet, (1024, 512, 256, 64)), (ResUNetTable1, (2048, 1024, 512, 128))],
)
def test_sizes_of_table1(build: type[nn.Module], up_channels: tuple[int, ...]) -> None:
    expected = dict(ENCODER_SIZES)
    for step, channels, side in zip(range(1, 5), up_channels, (38, 75, 150, 300), strict=True):
        expected[f"up{step}"] = (channels, side, side)
    # Shapes do not depend on values, and the meta device computes none.
    with torch.device("meta"):
        network = build(3).eval()
        found = dict(_sizes(network, torch.rand(1, 3, 600, 600), list(expected)))
    assert found == expected


def _sizes(
    network: nn.Module, image: Tensor, names: list[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    outputs: dict[str, Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.update({name: output})
        )
    network(image)
    for name, output in outputs.items():
        yield name, tuple(output.shape[1:])


def test_windows_of_a_unet_agree_beyond_the_halo() -> None:
    entry = model_entry("unet-small")
    network = entry.build(3, 1).eval()
    image = torch.rand(1, 3, entry.halo_px + 5 * entry.stride, 32)
    with torch.no_grad():
        whole = network(image)[:, :, entry.stride :]
        window = network(image[:, :, entry.stride :])
    far = slice(entry.halo_px, None)
    torch.testing.assert_close(window[:, :, far], whole[:, :, far])


@pytest.mark.parametrize("name", ["unet", "resunet", "resunet-table1"])
def test_first_logits_are_small(name: str) -> None:
    # With the gain of ReLU the standard deviation is about 11, and training diverges.
    network = build_model(name, 3)
    with torch.no_grad():
        assert network(torch.rand(2, 3, 64, 64)).std() < 1


@pytest.mark.parametrize("name", ["unet-small", "resunet"])
def test_biases_start_at_zero_and_weights_within_the_bound(name: str) -> None:
    for module in build_model(name, 3).modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None or not module.bias.any()
            bound = module.weight[0].numel() ** -0.5  # kaiming_uniform_ with a = sqrt(5)
            assert 0.5 * bound < module.weight.abs().max() <= bound


def test_decoder_takes_the_stem_before_normalisation() -> None:
    network = ResUNet(3).eval()
    seen: list[Tensor] = []
    network.encoder.conv1.register_forward_hook(lambda _m, _i, out: seen.append(out.clone()))
    network.up4.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[1]))
    with torch.no_grad():
        network(torch.rand(1, 3, 33, 47))
    assert torch.equal(*seen)
    assert seen[0].min() < 0


def test_head_is_parallel_to_the_encoder() -> None:
    network = ResUNet(4).eval()
    assert network.encoder.conv1.in_channels == 4
    with torch.no_grad():
        network.out.up.reduce.weight.zero_()
        network.out.classify.weight.fill_(1)
        image = torch.rand(1, 4, 33, 47)
        torch.testing.assert_close(
            network(image), network.head(image).sum(1, keepdim=True), rtol=1e-4, atol=1e-4
        )


def test_encoder_has_the_names_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.resnet50().state_dict()
        ours = ResUNet(3).encoder.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items() if not name.startswith("fc.")
    }


def test_align_corners_changes_the_map_and_only_resunet_has_it() -> None:
    model = build_model("resunet", 3, align_corners=True).eval()
    with torch.device("meta"):
        other = build_model("resunet", 3).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    image = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        assert not torch.allclose(model(image), other(image))
    with pytest.raises(UsageError, match="only 'resunet' has that option"):
        build_model("unet", 3, align_corners=True)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("unet", None),
        ("unet-small", None),
        ("resunet", "encoder"),
        ("resunet-table1", "encoder"),
        (LIBRARY, "network.encoder"),
    ],
)
def test_encoder_of_a_network(name: str, at: str | None) -> None:
    with torch.device("meta"):
        network = build_model(name, 3)
    assert encoder_of(network) is (None if at is None else network.get_submodule(at))


# Names.


@pytest.mark.parametrize(
    "name", ["unett", "library:unet", "library:/resnet18", "lib:unet/resnet18"]
)
def test_unknown_model_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError) as error:
        model_entry(name)
    assert name in str(error.value)
    assert all(known in str(error.value) for known in [*MODELS, "library:ARCH/ENCODER"])


def test_entries_say_stride_and_halo() -> None:
    found = {name: (entry.stride, entry.halo_px) for name, entry in MODELS.items()}
    assert found == {
        "unet": (16, 96),
        "unet-small": (16, 96),
        "resunet": (32, 128),
        "resunet-table1": (32, 128),
    }
    library = model_entry(LIBRARY)
    assert (library.stride, library.halo_px) == (32, 128)


@pytest.mark.parametrize(("bands", "outputs"), [(0, 1), (3, 0)])
def test_no_bands_or_outputs_are_refused(bands: int, outputs: int) -> None:
    with pytest.raises(UsageError, match="at least 1 band and 1 output"):
        build_model("unet-small", bands, outputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("library:unett/resnet18", "no architecture 'unett'. Choose one of deeplabv3, .*unet"),
        ("library:unet/resnet19", "no encoder 'resnet19'. Choose .*resnet18"),
        ("library:unet/tu-nothing", "Choose another encoder"),
        ("library:unetplusplus/mit_b0", "Choose another encoder"),
        (
            "library:unet/tu-maxvit_pico_rw_256",
            "must be divisible by window",
        ),
        ("library:unet/tu-test_vit", "for 4 bands: Unsupported model downsampling pattern. Choose"),
        ("library:dpt/resnet18", "Only Timm encoders are supported for DPT"),
    ],
)
def test_library_names_what_it_does_not_know(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(name, 4)


# The architectures of the library.


@pytest.fixture(params=ARCHITECTURES, scope="module")
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def name_with_small_encoder(architecture: str) -> str:
    encoder = "tu-test_vit" if architecture == "dpt" else "resnet18"
    return f"library:{architecture}/{encoder}"


def test_every_architecture_of_the_library_is_known_here() -> None:
    import segmentation_models_pytorch as smp

    assert sorted(smp.MODEL_ARCHITECTURES_MAPPING) == ARCHITECTURES


def test_architecture_takes_any_size_and_learns_from_two_images(architecture: str) -> None:
    network = build_model(name_with_small_encoder(architecture), 3)
    assert network.training
    network(torch.rand(2, 3, 64, 64)).mean().backward()
    network.eval()
    with torch.no_grad():
        for size in [(33, 47), (7, 5), (129, 70)]:
            logits = network(torch.rand(1, 3, *size))
            assert logits.shape == (1, 1, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize("bands", [1, 4, 14])
def test_architecture_takes_any_number_of_bands(architecture: str, bands: int) -> None:
    # timm's older transformers cannot be built without values.
    with torch.device("cpu" if architecture == "dpt" else "meta"):
        network = build_model(name_with_small_encoder(architecture), bands, 2)
        assert network(torch.rand(2, bands, 33, 64)).shape == (2, 2, 33, 64)


def test_these_cannot_learn_from_a_single_image(architecture: str) -> None:
    network = build_model(name_with_small_encoder(architecture), 3)
    image = torch.rand(1, 3, 64, 64)
    if architecture in {"deeplabv3", "deeplabv3plus", "pan", "upernet"}:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(image)
    else:
        assert network(image).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("architecture", ["pan", "unet"])
def test_padding_repeats_the_edge_and_keeps_the_place(architecture: str) -> None:
    network = build_model(f"library:{architecture}/resnet18", 3).eval()
    image = torch.rand(1, 3, 33, 64)
    side = {"pan": 128, "unet": 64}[architecture]
    padded = torch.empty(1, 3, side, side)
    for row in range(side):
        for col in range(side):
            padded[:, :, row, col] = image[:, :, min(row, 32), min(col, 63)]
    with torch.no_grad():
        assert torch.equal(network(image), network(padded)[:, :, :33, :64])
