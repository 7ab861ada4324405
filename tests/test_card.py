from __future__ import annotations

import json
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import tiny
from landslip.geo.errors import ModelError, OutputError
from landslip.learn.card import (
    CARD_KEY,
    FORMAT_VERSION,
    ModelCard,
    load_card,
    load_model,
    parameter_count,
    save_model,
)
from landslip.learn.models import build_model


def card_of(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "valley", "architecture": "unet-small", "total_parameters": 1_940_817,
        "bands": ("nir", "red"), "scaling": (("nir", 1.5, 4000.0), ("red", -3.0, 2.0)),
        "pixel_size_m": 0.5, "halo_px": 96, "stride_px": 16,
    }  # fmt: skip
    return ModelCard(**(fields | changes))


def network_of(bands: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = build_model("unet-small", bands)
    # Statistics of batches too must survive.
    network.train()
    with torch.no_grad():
        network(torch.rand(2, bands, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "valley.safetensors"
    save_model(path, network_of(), card_of())
    return path


def with_card(model: Path, path: Path, card: str | None) -> Path:
    """The same weights beside another card, or none."""
    metadata = None if card is None else {CARD_KEY: card}
    save_file(load_file(model), path, metadata)
    return path


def card_text(model: Path, **changes: Any) -> str:
    with safe_open(model, framework="pt") as file:
        return json.dumps(json.loads(file.metadata()[CARD_KEY]) | changes)


# Round trips -------------------------------------------------------------------------------------


def test_a_model_gives_the_same_output_after_loading(tmp_path: Path) -> None:
    network, path = network_of(seed=3), tmp_path / "m.safetensors"
    card = card_of(
        quantised=True, threshold=0.37, pr_curve=((0.1, 0.5, 0.9),), calibration={"kind": "none"},
        landslide_share=0.048, training={"seed": 3, "epochs": 2}, licence="CC0-1.0",
        scores={"test": {"precision": None, "recall": 0.25}}, note="Größe ≤ 3 °",
    )  # fmt: skip
    save_model(path, network, card)
    loaded_card, loaded = load_model(path)
    assert loaded_card == card == load_card(str(path))
    assert not loaded.training
    image = torch.rand(1, 2, 48, 33)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))


def test_channels_last_weights_are_saved(tmp_path: Path) -> None:
    network = network_of()
    image = torch.rand(1, 2, 32, 32)
    with torch.inference_mode():
        expected = network(image)
    network.to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", network, card_of())
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "m.safetensors")[1](image), expected)


def test_several_outputs_and_aligned_corners(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model("unet-small", 2, 3)
    save_model(tmp_path / "m.safetensors", network, card_of(hyperparameters={"outputs": 3}))
    _, loaded = load_model(tmp_path / "m.safetensors")
    assert loaded(torch.zeros(1, 2, 32, 32)).shape == (1, 3, 32, 32)


def test_the_card_is_plain_json_under_one_key(model: Path) -> None:
    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {CARD_KEY}
    found = json.loads(metadata[CARD_KEY])
    assert found["format_version"] == FORMAT_VERSION
    assert found["bands"] == ["nir", "red"]
    assert found["scaling"] == [["nir", 1.5, 4000.0], ["red", -3.0, 2.0]]
    assert found["calibration"] is None


def test_unknown_fields_are_kept(model: Path, tmp_path: Path) -> None:
    later = with_card(
        model, tmp_path / "later.safetensors",
        card_text(model, format_version="1.9", uncertainty={"method": "ensemble", "members": [1]}),
    )  # fmt: skip
    card, network = load_model(later)
    save_model(tmp_path / "again.safetensors", network, card)
    again = json.loads(card_text(tmp_path / "again.safetensors"))
    assert again["uncertainty"] == {"method": "ensemble", "members": [1]}
    assert again["format_version"] == "1.9"
    assert load_card(tmp_path / "again.safetensors") == card


def test_cards_are_never_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        card_of().threshold = 0.1


def test_the_scaling_of_the_card_scales() -> None:
    scaling = card_of(quantised=True).scaling_of_bands
    assert scaling.ranges == (("nir", 1.5, 4000.0), ("red", -3.0, 2.0))
    assert scaling.quantised


def test_parameters_are_counted_as_published() -> None:
    assert parameter_count(nn.Conv2d(3, 4, 3)) == 3 * 4 * 9 + 4


def nothing_but_json(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_undefined_numbers_are_null_and_never_bare_words(tmp_path: Path, value: float) -> None:
    path = tmp_path / "m.safetensors"
    card = card_of(
        landslide_share=value, scores={"test": {"f1": value}},
        training={"loss": value, "curve": [value, 1.0]}, calibration={"t": value}, extra=value,
    )  # fmt: skip
    save_model(path, network_of(), card)
    found = nothing_but_json(card_text(path))
    assert found["landslide_share"] is None
    assert found["scores"] == {"test": {"f1": None}}
    assert found["training"] == {"loss": None, "curve": [None, 1.0]}
    loaded = load_card(path)
    assert loaded.landslide_share is None
    nothing_but_json(loaded.model_dump_json())


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": math.nan},
        {"pixel_size_m": math.nan},
        {"pixel_size_m": 0.0},
        {"pixel_size_m": -1.0},
        {"stride_px": 0},
        {"halo_px": -1},
        {"bands": ()},
        {"bands": ("nir", "red", "green")},
        {"bands": ("red", "nir")},
        {"scaling": (("nir", 0.0, math.nan), ("red", 0.0, 1.0))},
        {"scaling": (("nir", 5.0, 5.0), ("red", 0.0, 1.0))},
    ],
)
def test_a_card_that_no_network_could_use_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ModelCard"):
        card_of(**wrong)


# Files that cannot be used -----------------------------------------------------------------------


def refused(path: Path, says: str) -> str:
    """Both doors refuse the file, with a message that names it and a remedy."""
    messages = []
    for open_ in (load_card, load_model):
        with pytest.raises(ModelError, match=says) as caught:
            open_(path)
        messages.append(str(caught.value))
    assert str(path) in messages[0]
    assert messages[0].startswith("Cannot ")
    assert messages[0] == messages[1]
    assert messages[0].count(". ") >= 1
    return messages[0]


def test_missing_files(tmp_path: Path) -> None:
    refused(tmp_path / "no.safetensors", "there is no such file")
    refused(tmp_path, "there is no such file")


class Harmful:
    """What a pickle can do."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Harmful, "ran", True)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_are_never_loaded(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps({"weights": Harmful()}, protocol))
    refused(path, "pickle" if protocol >= 2 else "no safetensors file")
    assert not Harmful.ran


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_never_loaded(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "m.safetensors"
    torch.save({"weights": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "it is a pickle.*landslip convert")


@pytest.mark.parametrize("length", [0x80, 0x4B50 + 0x10000, 0x80 + 0x100])
def test_headers_whose_length_looks_like_a_pickle(model: Path, tmp_path: Path, length: int) -> None:
    # 0x80 opens a pickle and "PK" a zip; both are also lengths of a safetensors header.
    with model.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        weights = file.read()
    target = length
    while target < size + 16:
        target += 0x10000
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    while len(text) > target:
        target += 0x10000
    path.write_bytes(struct.pack("<Q", target) + text.ljust(target) + weights)
    assert path.read_bytes()[:1] in (b"\x80", b"P")
    card, _ = load_model(path)
    assert card == load_card(model)


def test_files_cut_short(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    path = tmp_path / "cut.safetensors"
    for length in (0, 1, 7, 8, 9, 100, header, header + 7, header + 8, len(whole) // 2):
        path.write_bytes(whole[:length])
        refused(path, "cut short|damaged")
    path.write_bytes(whole[:-1])
    refused(path, "cut short")
    path.write_bytes(whole + b"0")
    refused(path, "damaged")


def test_other_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("A letter to the editor about landslides, of some length.")
    refused(path, "no safetensors file")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(path, "no safetensors file")
    path.write_bytes(struct.pack("<Q", 20) + b"{" + bytes(19))
    refused(path, "damaged")
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(path, "without a landslip card")


def test_safetensors_of_others(model: Path, tmp_path: Path) -> None:
    refused(with_card(model, tmp_path / "m.safetensors", None), "without a landslip card")
    save_file(load_file(model), tmp_path / "n.safetensors", {"format": "pt"})
    refused(tmp_path / "n.safetensors", "without a landslip card")


@pytest.mark.parametrize("version", ["2.0", "2", "10.1", 3])
def test_newer_formats_are_refused(model: Path, tmp_path: Path, version: Any) -> None:
    text = card_text(model, format_version=version)
    message = refused(with_card(model, tmp_path / "m.safetensors", text), "Update landslip")
    assert f"format {version}, this landslip reads {FORMAT_VERSION}" in message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"card"', "{}", '{"format_version": "one"}',
             '{"format_version": null}', '{"format_version": "1.0"}'],
)  # fmt: skip
def test_damaged_cards(model: Path, tmp_path: Path, text: str) -> None:
    refused(with_card(model, tmp_path / "m.safetensors", text), "its card is damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"bands": None},
        {"bands": []},
        {"scaling": [["nir", 0]]},
        {"scaling": [["nir", 0, 1]]},
        {"pixel_size_m": 0},
        {"pixel_size_m": "wide"},
        {"stride_px": 0},
        {"halo_px": -3},
        {"threshold": None},
    ],
)
def test_cards_with_fields_that_cannot_be(
    model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = with_card(model, tmp_path / "m.safetensors", card_text(model, **change))
    assert next(iter(change)) in refused(path, "its card is damaged")


def test_weights_of_another_network(model: Path, tmp_path: Path) -> None:
    text = card_text(model, architecture="unet")
    path = with_card(model, tmp_path / "m.safetensors", text)
    with pytest.raises(ModelError, match=r"its weights do not fit unet with 2 bands"):
        load_model(path)
    three = card_text(
        model, bands=["nir", "red", "green"],
        scaling=[["nir", 0, 1], ["red", 0, 1], ["green", 0, 1]],
    )  # fmt: skip
    with_card(model, path, three)
    with pytest.raises(ModelError, match=r"do not fit unet-small with 3 bands"):
        load_model(path)
    weights = load_file(model)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, {CARD_KEY: card_text(model)})
    with pytest.raises(ModelError, match="do not fit"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "hypernet-9000"},
        {"architecture": "library:Unet"},
        {"hyperparameters": {"outputs": "many"}},
        {"hyperparameters": {"outputs": 0}},
        {"hyperparameters": {"align_corners": True}},
    ],
)
def test_networks_that_this_landslip_does_not_know(
    model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    # The file is at fault, not the call: a ModelError that names it, and exit status 1.
    path = with_card(model, tmp_path / "m.safetensors", card_text(model, **change))
    with pytest.raises(ModelError, match=r"m.safetensors"):
        load_model(path)


# Writing -----------------------------------------------------------------------------------------


def test_a_model_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "m.safetensors"
    save_model(path, network_of(), card_of())
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_model(path, network_of(seed=1), card_of())
    assert path.read_bytes() == before
    save_model(path, network_of(seed=1), card_of(name="other"), overwrite=True)
    assert load_card(path).name == "other"
    assert [entry.name for entry in path.parent.iterdir()] == ["m.safetensors"]


def test_a_tiny_model_maps_and_says_so(tmp_path: Path) -> None:
    path = tiny.tiny_model(tmp_path / "t.safetensors", bands=("nir",), seed=5)
    card, network = load_model(path)
    assert card.bands == ("nir",)
    assert np.isfinite(network(torch.zeros(1, 1, 32, 32)).detach().numpy()).all()
