"""A checkpoint that is damaged, absurd or leads elsewhere ends in `CheckpointError`, before memory is taken for it.

Every fault is put into the checkpoint of every design, which loads without it (the control).
"""

import json
import logging
import os
import re
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from hf_videollm import CheckpointError, load_pipeline
from hf_videollm.convert.stream import read_tensor, require_folder, scan_weights
from hf_videollm.hub.checkpoint import bundled_checkpoints
from hf_videollm.models.configuration_beats import BeatsConfig
from hf_videollm.models.configuration_pllava import PllavaConfig
from hf_videollm.models.modeling_beats import BeatsModel
from hf_videollm.models.video_llm_checkpoint_files import check_file, check_links, is_finite, read_checkpoint_json
from hf_videollm.training.loading import load_for_training

DESIGNS = sorted(bundled_checkpoints())
NO_WEIGHTS = [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(params=[*DESIGNS, "beats"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint that may be spoilt."""
    folder = tmp_path / "checkpoint"
    if request.param == "beats":
        sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
        BeatsModel(BeatsConfig(**sizes, patch_embedding_dim=32, conv_pos_kernel=16, conv_pos_groups=4)).save_pretrained(
            folder
        )
    else:
        shutil.copytree(bundled_checkpoints()[request.param], folder)
    return folder


def load(folder: Path, **options: Any) -> Any:
    if read_config(folder)["model_type"] == "beats":
        return BeatsModel.from_pretrained(folder, **options)
    return AutoModelForImageTextToText.from_pretrained(folder, **options)


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path) -> str:
    """The one line that loading ends with."""
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> dict[str, str]:
    """Divide the weights in two files and an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def with_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another header before the same data."""
    content = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def first_float(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if tensors[name].is_floating_point() and tensors[name].numel() > 3)


# Files


def test_an_unspoilt_checkpoint_loads_whole_and_in_shards(folder: Path) -> None:
    """The control of everything below."""
    whole = load(folder).state_dict()
    shard(folder)
    parts = load(folder).state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    "way", ["../outside.safetensors", "{root}/outside.safetensors", "sub/../../outside.safetensors"]
)
def test_an_index_names_files_of_its_folder_only(folder: Path, way: str) -> None:
    weight_map = shard(folder)
    shutil.move(folder / "model-00002-of-00002.safetensors", folder.parent / "outside.safetensors")
    (folder / "sub").mkdir()
    named = way.format(root=folder.parent)
    changed = {name: named if "00002-of" in file else file for name, file in weight_map.items()}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": changed}))
    assert "no safetensors file of this folder" in refused(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: [index], "holds a JSON list instead of an object"),
        (lambda index: {"metadata": {}}, "has no 'weight_map'"),
        (lambda index: {**index, "weight_map": list(index["weight_map"])}, "has no 'weight_map'"),
        (lambda index: {**index, "weight_map": "model.safetensors"}, "has no 'weight_map'"),
        (lambda index: {**index, "weight_map": dict.fromkeys(index["weight_map"], 3)}, "names 3, which is no"),
        (lambda index: {**index, "weight_map": dict.fromkeys(index["weight_map"])}, "names None, which is no"),
        (lambda index: {"weight_map": index["weight_map"]}, "has no object 'metadata'"),
        (lambda index: {**index, "metadata": None}, "has no object 'metadata'"),
        (lambda index: {**index, "metadata": ["total_size"]}, "has no object 'metadata'"),
    ],
)
def test_an_index_of_another_form_is_refused(folder: Path, change: Callable[[Any], Any], words: str) -> None:
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(change(index)))
    message = refused(folder)
    assert words in message
    assert str(folder / INDEX) in message
    # Converters read an index themselves, and need no metadata.
    if "metadata" in words:
        assert len(scan_weights(folder).tensors) == len(index["weight_map"])
    else:
        with pytest.raises(CheckpointError, match=re.escape(words)):
            scan_weights(folder)


def test_an_unknown_activation_is_refused_by_the_name_of_its_field() -> None:
    for config_class, field in ((PllavaConfig, "projector_hidden_act"), (BeatsConfig, "hidden_act")):
        assert getattr(config_class.from_dict({field: "silu"}), field) == "silu"
        for name, hint in (("foo", "such as gelu or silu"), ("gellu", "did you mean gelu")):
            with pytest.raises(CheckpointError, match=f"{field} must be an activation function .*'{name}': {hint}"):
                config_class.from_dict({field: name})


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "generation_config.json"])
def test_links_out_of_the_folder_are_refused_and_links_inside_are_not(folder: Path, name: str) -> None:
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    shutil.move(folder / name, folder.parent / "moved")
    (folder / name).symlink_to(folder.parent / "moved")
    assert f"{name} leads out of the checkpoint" in refused(folder)
    (folder / name).unlink()
    shutil.move(folder.parent / "moved", folder / f"inside_{name}")
    (folder / name).symlink_to(f"inside_{name}")
    load(folder)


def test_a_linked_shard_and_a_linked_folder(folder: Path) -> None:
    shard(folder)
    (folder.parent / "link").symlink_to(folder)
    load(folder.parent / "link")
    name = "model-00001-of-00002.safetensors"
    shutil.move(folder / name, folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert "leads out of the checkpoint" in refused(folder)


def test_the_links_of_the_hubs_cache_go_on_working(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--a--b"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, repository / "blobs" / str(number))
        place.symlink_to(os.path.relpath(repository / "blobs" / str(number), place.parent))
    load(snapshot)
    # But not those into another repository, or out of the cache.
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(folder / WEIGHTS)
    assert "leads out of the checkpoint" in refused(snapshot)


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    assert "is no regular file" in refused(folder)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("nowhere")
    assert "cannot be read" in refused(folder)


def test_pickles_are_refused_and_not_run(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle" in refused(folder)


def test_other_weights_named_in_the_configuration_are_refused(folder: Path) -> None:
    write_config(folder, {**read_config(folder), "transformers_weights": "../other.safetensors"})
    assert "names weights of its own" in refused(folder)


# Weights


def test_the_same_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shard(folder)
    first, second = (load_file(folder / f"model-0000{number}-of-00002.safetensors") for number in (1, 2))
    name = sorted(first)[0]
    save_file({**second, name: first[name]}, folder / "model-00002-of-00002.safetensors", metadata={"format": "pt"})
    assert f"{name} is in both" in refused(folder)


def test_an_index_that_misplaces_a_tensor_is_refused(folder: Path) -> None:
    weight_map = shard(folder)
    name = sorted(weight_map)[0]
    moved = {**weight_map, name: "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": moved}))
    assert f"says that {name} is in" in refused(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "is missing" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_infinity_are_refused(folder: Path, value: float, dtype: torch.dtype) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        name = first_float(tensors)
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[-2] = value

    change_weights(folder, spoil)
    assert "holds NaN or infinity" in refused(folder)


@pytest.mark.parametrize("dtype", [*NO_WEIGHTS, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_are_floating_point_numbers(folder: Path, dtype: torch.dtype) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        name = first_float(tensors)
        tensors[name] = tensors[name].to(dtype)

    change_weights(folder, spoil)
    assert "where weights are floating-point numbers" in refused(folder)


@pytest.mark.parametrize("dtype", NO_WEIGHTS)
def test_without_strict_only_weights_must_be_floating_point_numbers(folder: Path, dtype: torch.dtype) -> None:
    """What is no part of the model may hold anything, as its values go nowhere."""

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({"step": torch.ones(2, dtype=dtype), "ema.projection.weight": torch.ones(2, dtype=dtype)})

    before = load(folder).state_dict()
    change_weights(folder, add)
    assert "where weights are floating-point numbers" in refused(folder)
    after = load(folder, strict=False).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        name = first_float(tensors)
        tensors[name] = tensors[name].to(dtype)

    change_weights(folder, spoil)
    with pytest.raises(CheckpointError, match="where weights are floating-point numbers"):
        load(folder, strict=False)


def test_the_report_of_transformers_is_printed_only_without_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says of unexpected tensors that they can be ignored, where the error says that they cannot."""
    folder = Path(shutil.copytree(bundled_checkpoints()["pllava-tiny"], tmp_path / "checkpoint"))
    change_weights(folder, lambda tensors: tensors.update(extra=torch.ones(2)))
    logger = logging.getLogger("transformers.modeling_utils")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    before = list(logger.filters)
    with caplog.at_level(logging.WARNING):
        assert "not part of the model: extra" in refused(folder)
        assert "LOAD REPORT" not in caplog.text
        load(folder, strict=False)
        assert "LOAD REPORT" in caplog.text
    assert logger.filters == before


def test_a_file_that_is_cut_anywhere_is_refused(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:length])
        assert "is truncated or damaged" in refused(folder)
    (folder / WEIGHTS).write_bytes(content + b"\0")
    assert "is truncated or damaged" in refused(folder)


def test_a_git_lfs_pointer_is_named(folder: Path) -> None:
    """What `git clone` leaves without `git lfs pull`; loading and converting say the same."""
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n")
    message = refused(folder)
    assert message == f"{folder / WEIGHTS} is a Git LFS pointer instead of the weights: run `git lfs pull` there."
    with pytest.raises(CheckpointError, match=re.escape(message)):
        scan_weights(folder)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 10**8 + 1, 2**20])
def test_a_header_of_another_length_is_refused(folder: Path, length: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + content[8 : 8 + 2**19])
    assert "is truncated or damaged" in refused(folder)


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": [2**62, 2**62]},
        {"shape": [-1]},
        {"shape": "many"},
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [-8, 0]},
        {"dtype": "F1024"},
        {"dtype": None},
    ],
)
def test_headers_that_lie_are_refused(folder: Path, lie: dict[str, Any]) -> None:
    def change(header: dict[str, Any]) -> None:
        name = next(name for name in header if name != "__metadata__")
        header[name] = {**header[name], **lie}

    with_header(folder, change)
    assert "is truncated or damaged" in refused(folder)


def test_overlapping_tensors_are_refused(folder: Path) -> None:
    def overlap(header: dict[str, Any]) -> None:
        names = [name for name in header if name != "__metadata__"]
        header[names[-1]] = header[names[0]]

    with_header(folder, overlap)
    assert "is truncated or damaged" in refused(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_finite_means_what_torch_means(dtype: torch.dtype) -> None:
    """Every pattern of 16 bits, and the edges of the wider types, alone among ordinary values."""
    if dtype.itemsize == 2:
        values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    else:
        info = torch.finfo(dtype)
        edges = [0.0, info.max, info.min, info.tiny, info.smallest_normal, float("inf"), float("nan"), 1.0]
        values = torch.tensor([*edges, *(-edge for edge in edges)], dtype=dtype)
    wanted = values.isfinite().tolist()
    assert [is_finite(value) for value in values] == wanted
    assert set(wanted) == {True, False}
    for place in (0, 2**16 - 1, 2**16, -1):
        many = torch.ones(3, 2**16, dtype=dtype)
        assert is_finite(many)
        many.view(-1)[place] = float("-inf")
        assert not is_finite(many)
        assert is_finite(many[:, 1:-1])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_finite_in_eight_bits(dtype: torch.dtype) -> None:
    values = torch.arange(-128, 128).to(torch.int8).view(dtype)
    assert [is_finite(value) for value in values] == values.float().isfinite().tolist()


# Configurations


def every_number(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where sizes and counts stand in a configuration, those of its parts included."""
    if isinstance(tree, dict):
        return [found for name, value in tree.items() for found in every_number(value, (*path, name))]
    is_size = path and str(path[-1]).endswith(("size", "layers", "heads", "frames", "dim"))
    return [path] if is_size and isinstance(tree, int) and not isinstance(tree, bool) and tree > 0 else []


def put(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**config, head: put(config[head], tuple(rest), value) if rest else value}


@pytest.fixture
def little_memory() -> Any:
    """What an absurd configuration asks for is not to be had: whoever allocates it dies of something else."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("value", [-5, 10**12, "64", [1], None, 1.5, {"a": 1}, True, 10**400, float("nan")])
def test_no_size_takes_an_absurd_value(folder: Path, value: Any) -> None:
    """Each is refused, or changes nothing that is built (`None` and unused fields)."""
    config = read_config(folder)
    places = every_number(config)
    assert len(places) >= 4
    refusals, lines = 0, False
    # Every one is tried by some value; all of them by all values would take long.
    for path in places[::3] if value in (-5, 10**12) else places[:3]:
        write_config(folder, put(config, path, value))
        try:
            load(folder)
        except CheckpointError as error:
            refusals += 1
            lines |= "\n" in str(error)
    assert refusals or value is None
    assert not lines


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("pooling_shape",), [10**9] * 3, "pooling_shape"),
        (("poolng_shape",), [4, 4, 4], "no field 'poolng_shape': did you mean pooling_shape"),
        (("quantization_config",), {"quant_method": "nope"}, "names the method 'nope'"),
        (("quantization_config",), {}, "names the method None"),
        (("text_config", "num_attention_heads"), 0, "num_attention_heads is 0"),
        (("vision_config", "patch_size"), 0, "patch_size is 0"),
        (("dtype",), "float999", "dtype is 'float999'"),
        (("text_config", "dtype"), "float999", "dtype is 'float999'"),
        (("text_config", "rope_theta"), "x", "rope_theta must be a number, not 'x'"),
        (("text_config", "rope_theta"), [1.0], "rope_theta must be a number, not [1.0]"),
        (("text_config", "rope_parameters", "rope_theta"), "x", "rope_theta must be a number, not 'x'"),
        (("text_config", "rope_parameters"), "x", "rope_parameters must be an object"),
        (("text_config", "rope_parameters"), [1], "rope_parameters must be an object"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(tmp_path: Path, path: tuple[str, ...], value: Any, words: str) -> None:
    folder = Path(shutil.copytree(bundled_checkpoints()["pllava-tiny"], tmp_path / "checkpoint"))
    config = {**read_config(folder), "field_of_a_later_release": 1}
    write_config(folder, config)
    load(folder)
    part = config
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    write_config(folder, config)
    assert words in refused(folder)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size"])
def test_a_model_far_larger_than_its_weights_is_never_built(folder: Path, name: str) -> None:
    config = read_config(folder)
    paths = [path for path in every_number(config) if path[-1] == name]
    for path in paths[:2]:
        write_config(folder, put(config, path, 400 if name == "num_hidden_layers" else 2**24))
        refused(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"text"',
        "{",
        '{"model_type": ',
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"model_type": "pllava", "hidden_size": ' + "9" * 5000 + "}",
        '{"\ud800": 1}',
    ],
    ids=["empty", "list", "null", "string", "open", "cut", "deep objects", "deep lists", "digits", "surrogate"],
)
def test_other_json_is_refused_everywhere(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(bundled_checkpoints()["pllava-tiny"], folder)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    from hf_videollm import PllavaForConditionalGeneration

    for loader in (PllavaForConditionalGeneration.from_pretrained, load_pipeline):
        with pytest.raises(CheckpointError) as caught:
            loader(str(folder))
        assert "\n" not in str(caught.value)


def test_nesting_that_json_reads_is_refused_too(folder: Path) -> None:
    nested: Any = 1
    for _ in range(100):
        nested = {"text_config": nested}
    write_config(folder, {**read_config(folder), "text_config": nested})
    assert "describes no model that can be built" in refused(folder)


def test_endless_json_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(CheckpointError, match="bytes of JSON"):
        read_checkpoint_json(tmp_path / "config.json")


# Adapters


@pytest.fixture
def pllava_lora(tiny_checkpoint: str, tmp_path: Path) -> Path:
    from peft import LoraConfig

    from hf_videollm import PllavaForConditionalGeneration
    from hf_videollm.models.pllava_lora import LORA_TARGETS

    model = PllavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    LoraConfig(r=2, target_modules=LORA_TARGETS)
    pytest.importorskip("peft")
    (tmp_path / "adapter").mkdir()
    weights = {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "v_proj")) and "language_model" in name:
            weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, module.in_features)
            weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(module.out_features, 2)
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    LoraConfig(r=2, target_modules=LORA_TARGETS, task_type="CAUSAL_LM").save_pretrained(str(tmp_path / "adapter"))
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    shutil.copytree(tmp_path / "adapter", folder / "lora")
    write_config(folder, {**read_config(folder), "lora_adapter": "lora", "lora_alpha": 2.0, "lora_training_alpha": 2})
    return folder


def test_an_adapter_is_read_from_the_checkpoint_only(pllava_lora: Path) -> None:
    load(pllava_lora)
    config = read_config(pllava_lora)
    for place in ("../adapter", str(pllava_lora.parent / "adapter")):
        write_config(pllava_lora, {**config, "lora_adapter": place})
        assert "outside of its folder" in refused(pllava_lora)
    write_config(pllava_lora, config)
    file = pllava_lora / "lora" / "adapter_model.safetensors"
    file.unlink()
    file.symlink_to(pllava_lora.parent / "adapter" / "adapter_model.safetensors")
    assert "leads out of the checkpoint" in refused(pllava_lora)
    shutil.rmtree(pllava_lora / "lora")
    (pllava_lora / "lora").symlink_to(pllava_lora.parent / "adapter")
    assert "leads out of the checkpoint" in refused(pllava_lora)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_with_nan_is_refused(pllava_lora: Path, value: float) -> None:
    file = pllava_lora / "lora" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[sorted(tensors)[0]].view(-1)[0] = value
    save_file(tensors, file)
    assert "holds NaN or infinity" in refused(pllava_lora)


def adapter_says(folder: Path, **values: Any) -> None:
    file = folder / "lora" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


EVIL = "(a|a|aa)+" * 20 + "(.*)*(.*)*(.*)*b"


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("r", [10**9, 0, -1, "2", 2.0, True, None, 3]),
        ("lora_alpha", ["x", -1, 0, None, [2], float("nan"), 10**400]),
        ("lora_dropout", ["x", -1, 2]),
        ("peft_type", ["IA3", "nothing", None, 1]),
        ("use_rslora", ["yes"]),
        ("task_type", ["nothing", 1]),
        ("use_dora", [True]),
        ("layer_replication", [[[0, 10**9]]]),
        ("target_modules", [["v_proj"], ["fc1"]]),
        ("alpha_pattern", [{EVIL: 2}, {"q_proj": "x"}, ["q_proj"], {"(": 2}, {"q_proj": 10**400}]),
    ],
)
def test_an_adapter_says_nothing_that_its_weights_do_not_bear_out(
    pllava_lora: Path, name: str, values: list[Any]
) -> None:
    kept = (pllava_lora / "lora" / "adapter_config.json").read_text()
    for value in values:
        (pllava_lora / "lora" / "adapter_config.json").write_text(kept)
        adapter_says(pllava_lora, **{name: value})
        assert "adapter_" in refused(pllava_lora)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"r": 2', '{"a":' * 100_000, "\x00"])
def test_other_json_of_an_adapter_is_refused(pllava_lora: Path, text: str) -> None:
    (pllava_lora / "lora" / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refused(pllava_lora)


def test_foreign_patterns_of_an_adapter_are_never_run(pllava_lora: Path) -> None:
    """They would take longer than anyone lives; which layers there are, the weights tell."""
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        adapter_says(pllava_lora, **{name: EVIL})
    adapter_says(pllava_lora, rank_pattern={EVIL: 2})
    model = load(pllava_lora)
    assert len(model.lora_layers()) == len(load_file(pllava_lora / "lora" / "adapter_model.safetensors")) / 2
    # Nor are they handed on.
    model.save_pretrained(pllava_lora.parent / "again")
    assert EVIL not in (pllava_lora.parent / "again" / "lora" / "adapter_config.json").read_text()
    assert len(load(pllava_lora.parent / "again").lora_layers()) == len(model.lora_layers())


def test_empty_factors_make_no_large_ones(pllava_lora: Path) -> None:
    file = pllava_lora / "lora" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: torch.ones(10**9, 0) if ".lora_A." in name else torch.ones(0, 10**9) for name in tensors}, file)
    adapter_says(pllava_lora, r=10**9)
    assert "instead of" in refused(pllava_lora)


def test_an_adapter_that_cannot_be_attached_leaves_the_model_as_it_was(
    pllava_lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_videollm import PllavaForConditionalGeneration

    model = PllavaForConditionalGeneration.from_pretrained(pllava_lora, lora_adapter=None, lora_alpha=None)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    files = [pllava_lora / "lora" / name for name in ("adapter_config.json", "adapter_model.safetensors")]

    def fail(self: Any, weights: Any) -> None:
        assert self.lora_layers()
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(PllavaForConditionalGeneration, "_place_factors", fail)
        with pytest.raises(CheckpointError, match="no memory"):
            model.load_lora(*files)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert model.lora_name() is None
    model.load_lora(*files)
    assert model.lora_layers()


def test_ranks_of_their_own_are_those_of_the_weights(pllava_lora: Path) -> None:
    file = pllava_lora / "lora" / "adapter_model.safetensors"
    tensors = load_file(file)
    own = sorted(tensors)[0].partition(".lora_")[0]
    for part, change in (("lora_A", lambda a: a[:1]), ("lora_B", lambda b: b[:, :1])):
        tensors[f"{own}.{part}.weight"] = change(tensors[f"{own}.{part}.weight"]).contiguous()
    save_file(tensors, file)
    assert "says r=2" in refused(pllava_lora)
    adapter_says(pllava_lora, rank_pattern={own.removeprefix("base_model.model."): 1})
    layers = load(pllava_lora).lora_layers()
    assert sorted({layer.r["default"] for layer in layers.values()}) == [1, 2]


def test_linvts_adapter_is_checked_alike(tiny_linvt_checkpoint: str, tmp_path: Path) -> None:
    from hf_videollm import LinVTForCausalLM

    LinVTForCausalLM.from_pretrained(tiny_linvt_checkpoint).save_pretrained(tmp_path / "adapter", adapter_only=True)
    folder = tmp_path / "adapter"
    config = read_config(folder)
    LinVTForCausalLM.from_adapter(folder)
    write_config(folder, {**config, "backbone_name": "../elsewhere"})
    with pytest.raises(CheckpointError, match="names its image-LLM by the path"):
        LinVTForCausalLM.from_adapter(folder)
    write_config(folder, config)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first_float(tensors)].view(-1)[0] = float("nan")

    change_weights(folder, spoil)
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        LinVTForCausalLM.from_adapter(folder)
    shutil.move(folder / WEIGHTS, tmp_path / "moved")
    (folder / WEIGHTS).symlink_to(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        LinVTForCausalLM.from_adapter(folder)


# Converters, and the other ways in


def test_converters_read_no_links_out_of_their_folder_and_no_nan(tmp_path: Path) -> None:
    folder = tmp_path / "official"
    folder.mkdir()
    save_file({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}, folder / WEIGHTS)
    require_folder(folder, "the checkpoint")
    tensors = scan_weights(folder).tensors
    assert torch.equal(read_tensor(tensors["b"]), torch.ones(2))
    with pytest.raises(CheckpointError, match=r"a in .* holds NaN"):
        read_tensor(tensors["a"])
    (tmp_path / "secret.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        require_folder(folder, "the checkpoint")


@pytest.mark.parametrize("way_in", [load_pipeline, load_for_training])
def test_every_way_in_checks_alike(tmp_path: Path, way_in: Callable[[str], Any]) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(bundled_checkpoints()["pllava-tiny"], folder)
    way_in(str(folder))

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first_float(tensors)].view(-1)[0] = float("inf")

    change_weights(folder, spoil)
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        way_in(str(folder))


def test_weights_with_nan_can_be_loaded_as_the_docs_say(tmp_path: Path) -> None:
    from hf_videollm import PllavaConfig, PllavaForConditionalGeneration

    folder = tmp_path / "checkpoint"
    shutil.copytree(bundled_checkpoints()["pllava-tiny"], folder)
    tensors = load_file(folder / WEIGHTS)
    name = first_float(tensors)
    tensors[name].view(-1)[0] = float("nan")
    config = PllavaConfig.from_pretrained(folder)
    model = PllavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors)
    assert model.state_dict()[name].isnan().any()


def test_folders_below_are_not_entered(tmp_path: Path) -> None:
    """Checkpoints of a training lie in the folder of another one, with links of their own."""
    (tmp_path / "a" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "a" / "checkpoint-1" / "x").symlink_to("/etc/hostname")
    (tmp_path / "a" / "runs").symlink_to(tmp_path)
    check_links(tmp_path / "a")
    with pytest.raises(CheckpointError, match="leads out"):
        check_file(tmp_path / "a" / "checkpoint-1" / "x", tmp_path / "a")
