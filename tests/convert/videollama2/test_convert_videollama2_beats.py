"""Microsoft's BEATs file, and the audio towers of VideoLLaMA2-AV, become folders that load alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from hf_videollm.cli.commands import main
from hf_videollm.convert.stream import read_header
from hf_videollm.convert.videollama2.beats import beats_config, convert_beats
from hf_videollm.convert.videollama2.keys import sort_beats
from hf_videollm.models.errors import CheckpointError
from hf_videollm.models.modeling_beats import BeatsModel

TABLE = "encoder.layers.2.self_attn.relative_attention_bias.weight"


@pytest.fixture
def beats(goldens: Path) -> Path:
    return goldens / "videollama2" / "beats"


@pytest.fixture
def state(beats: Path) -> dict[str, torch.Tensor]:
    return load_file(beats / "beats.weights.safetensors")


@pytest.fixture
def settings(beats: Path) -> dict[str, Any]:
    """What the tiny BEATs says of itself, with everything of the original's table."""
    return json.loads((beats / "meta.json").read_text())["tiny_config"]


@pytest.mark.parametrize("form", ["microsoft", "audio_tower.bin", "safetensors", "one table"])
def test_every_form_gives_the_golden_features(
    beats: Path, state: dict[str, torch.Tensor], settings: dict[str, Any], tmp_path: Path, form: str
) -> None:
    file = tmp_path / "beats.pt"
    if form == "microsoft":
        torch.save({"cfg": settings, "model": state}, file)
    elif form == "audio_tower.bin":
        torch.save({f"model.audio_tower.{name}": tensor for name, tensor in state.items()}, file)
    else:
        file = tmp_path / "beats.safetensors"
        tables = [name for name in state if "relative_attention_bias" in name]
        assert len(tables) == 3
        save_file({name: t for name, t in state.items() if form == "safetensors" or name not in tables[1:]}, file)
    report = convert_beats(file, tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, BeatsModel)
    inputs, outputs = load_file(beats / "inputs.safetensors"), load_file(beats / "outputs.safetensors")
    with torch.no_grad():
        for name in ("T101_b2", "T400"):
            found = model(input_features=inputs[f"fbank_{name}"].float()).last_hidden_state
            assert (found - outputs[f"{name}.nomask.features"]).abs().max() < 2e-5
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert extractor.num_mel_bins == 128
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert report.notes == ["the AudioSet classifier of the checkpoint was dropped."]
    console = Console(record=True, width=200)
    console.print(report.render())
    assert "(BEATs)" in console.export_text()
    assert not [path for path in tmp_path.rglob("*") if "pickle" in path.name]


def test_the_folder_is_what_the_library_writes(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "beats.safetensors")
    convert_beats(tmp_path / "beats.safetensors", tmp_path / "out")
    BeatsModel.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    AutoFeatureExtractor.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("out", "again")]
    assert names[0] == names[1]
    for name in ("config.json", "preprocessor_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((tmp_path / "again" / name).read_text())
    # Without the package, this is how the classes are found.
    auto_map = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_beats.BeatsModel"


def test_settings_that_no_tensor_shows_are_read(
    state: dict[str, torch.Tensor], settings: dict[str, Any], tmp_path: Path
) -> None:
    told = {**settings, "max_distance": 600, "deep_norm": False, "encoder_layerdrop": 0.2, "dropout_input": 0.1}
    torch.save({"cfg": told, "model": state}, tmp_path / "beats.pt")
    report = convert_beats(tmp_path / "beats.pt", tmp_path / "out", dtype="bfloat16")
    config = BeatsModel.from_pretrained(tmp_path / "out").config
    assert (config.max_distance, config.deep_norm, config.layerdrop) == (600, False, 0.2)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 48, 4)
    assert report.dtype == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_layers": 12}, "says encoder_layers 12, but its tensors say 3"),
        ({"gru_rel_pos": False}, "has gru_rel_pos False; only True is supported"),
        ({"layer_norm_first": True}, "has layer_norm_first True"),
        ({"max_distance": 3}, r"cannot be converted: .*max_distance"),
        ({"activation_fn": 5}, r"cannot be converted: .*hidden_act"),
    ],
)
def test_settings_of_another_model_are_refused(
    state: dict[str, torch.Tensor], settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = tmp_path / "beats.safetensors"
    save_file(state, file)
    contents = sort_beats({tensor.name: tensor for tensor in read_header(file)}, file)
    assert beats_config(contents, settings).num_buckets == 320
    with pytest.raises(CheckpointError, match=words) as caught:
        beats_config(contents, {**settings, **changes})
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({TABLE: torch.zeros(320, 4)}, r"layers\.0\..* and .*layers\.2\..* differ, but all layers of BEATs"),
        ({"encoder.layers.1.fc2.bias": None}, r"^encoder\.layers\.1\.fc2\.bias is missing in"),
        ({"patch_embedding.weight": None}, r"^patch_embedding\.weight is missing in .*: this is no BEATs"),
        ({"quantize.embedding": torch.ones(3)}, r"quantize\.embedding in .* has no place in BEATs"),
        ({"layer_norm.weight": torch.ones(5)}, r"layer_norm\.weight in .* has the shape \(5\) instead of \(32\)"),
        ({"model.audio_tower.layer_norm.weight": torch.ones(32)}, "holds BEATs twice"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    state: dict[str, torch.Tensor], tmp_path: Path, changes: dict[str, torch.Tensor | None], words: str
) -> None:
    tensors = {name: tensor for name, tensor in {**state, **changes}.items() if tensor is not None}
    save_file(tensors, tmp_path / "beats.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        convert_beats(tmp_path / "beats.safetensors", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beats.safetensors"]


def test_the_command(state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(state, tmp_path / "beats.safetensors")
    for name, code in (("beats.safetensors", 0), ("nothing.pt", 2)):
        with pytest.raises(SystemExit) as stop:
            main(["convert", "beats", str(tmp_path / name), str(tmp_path / "out"), "--json", "--overwrite"])
        assert stop.value.code == code
        output = capsys.readouterr()
        if code == 0:
            assert json.loads(output.out)["parameters"] > 0
        else:
            assert "nothing.pt is missing" in output.err
            assert len(output.err.splitlines()) == 1
