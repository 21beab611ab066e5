"""Whatever is wrong with a checkpoint or an option: one line with the file and the tensor, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pllava_sources import (
    RANK,
    base_tensors,
    official_tensors,
    our_tensors,
    partial_tensors,
    raw_config,
    released_tensors,
    write_source,
    write_tokenizer,
)
from refusals import Change, put, refusal, siblings, without

from hf_videollm import PllavaForConditionalGeneration
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.models.errors import CheckpointError

LLM = "language_model.base_model.model.model."
UP = f"{LLM}layers.1.mlp.up_proj.weight"
LORA_B = f"{LLM}layers.1.self_attn.v_proj.lora_B.default.weight"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A released checkpoint with its tokenizer."""
    return write_tokenizer(write_source(tmp_path / "source", released_tensors(), raw_config()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(UP), f"{UP} is missing in"),
        (without(f"{LLM}layers.0.self_attn.q_proj.base_layer.weight"), "q_proj.base_layer.weight is missing"),
        (without("language_model.base_model.model.lm_head.weight"), "model.lm_head.weight is missing in"),
        (without("multi_modal_projector.linear_2.bias"), "multi_modal_projector.linear_2.bias is missing in"),
        (without("vision_tower.vision_model.pre_layrnorm.bias"), "tower.vision_model.pre_layrnorm.bias is missing"),
        (without(LORA_B), f"{LORA_B} is missing in"),
        (put("surprise.weight", torch.ones(1)), r"surprise.weight in .*safetensors has no place"),
        (put(f"{LLM}layers.2.input_layernorm.weight", torch.ones(24)), r"layers.2.input_layernorm.weight in .* no pl"),
        (put(f"{LLM}layers.0.self_attn.q_proj.bias", torch.ones(24)), r"q_proj.bias in .* has no place"),
        (put("image_newline", torch.ones(24)), r"image_newline in .* has no place"),
        (put(UP, torch.ones(31, 24)), rf"{UP} in .*safetensors has the shape \(31, 24\) instead of \(32, 24\)"),
        (put(UP, torch.ones(32, 24, dtype=torch.int8)), rf"{UP} in .* is int8: quantized weights"),
        (put(LORA_B, torch.ones(13, RANK)), rf"{LORA_B} in .* is \(13, {RANK}\)"),
        (put(LORA_B, torch.ones(12, RANK + 1)), rf"{LORA_B} in .* has rank {RANK + 1}, but .* has rank {RANK}"),
        (put(LORA_B, torch.ones(48)), rf"{LORA_B} in .* is \(48\)"),
        (
            put(f"{LLM}layers.0.self_attn.k_proj.lora_A.default.weight", torch.ones(RANK, 24)),
            r"k_proj.lora_A.default.weight in .* has no place in PLLaVA, whose LoRA adapts",
        ),
        (
            put("language_model.model.layers.1.mlp.up_proj.weight", torch.ones(32, 24)),
            "are both meant for model.language_model.layers.1.mlp.up_proj.weight",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Change, words: str) -> None:
    tensors = released_tensors()
    change(tensors)
    source = write_source(tmp_path / "source", tensors, raw_config(), shards=2)
    with refusal(tmp_path, words) as caught:
        convert_pllava(source, tmp_path / "out")
    assert str(source) in str(caught.value)


def test_many_misfits_make_one_short_line(tmp_path: Path) -> None:
    text = {**raw_config()["text_config"], "num_hidden_layers": 20}
    source = write_source(tmp_path / "source", released_tensors(), raw_config(text_config=text))
    with pytest.raises(CheckpointError, match=r"layers\.2\..* is missing .*\(and \d+ more\)") as caught:
        convert_pllava(source, tmp_path / "out")
    assert len(str(caught.value)) < 1000


def test_a_partial_checkpoint_never_borrows_the_projector_of_its_base(tmp_path: Path) -> None:
    tensors = partial_tensors()
    del tensors["multi_modal_projector.linear_1.weight"]
    source = write_source(tmp_path / "source", tensors, raw_config())
    base = write_source(tmp_path / "base", base_tensors())
    with pytest.raises(CheckpointError, match=r"multi_modal_projector\.linear_1\.weight is missing in .*source"):
        convert_pllava(source, tmp_path / "out", base=base)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("plain", "language_model.model.layers.0.self_attn.q_proj.weight"),
        ("memory", "model.language_model.layers.0.self_attn.q_proj.weight"),
        ("tidy", "vision_tower.post_layernorm.bias"),
    ],
)
def test_a_hole_in_the_base_is_named_as_the_base_would(tmp_path: Path, layout: str, name: str) -> None:
    source = write_source(tmp_path / "source", partial_tensors(), raw_config())
    tensors = base_tensors(layout)
    del tensors[name]
    base = write_source(tmp_path / "base", tensors)
    with pytest.raises(CheckpointError) as caught:
        convert_pllava(source, tmp_path / "out", base=base)
    assert str(caught.value).startswith(f"{name} is missing in {base}")


def test_misuses_that_once_gave_random_weights_are_errors(tmp_path: Path) -> None:
    full = write_source(tmp_path / "full", released_tensors(), raw_config())
    partial = write_source(tmp_path / "partial", partial_tensors(), raw_config())
    base = write_source(tmp_path / "base", base_tensors(), {"model_type": "llava_next"})
    out = tmp_path / "out"
    for folder in (full, partial):
        with pytest.raises(CheckpointError, match="does not fit PllavaForConditionalGeneration"):
            PllavaForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="holds only LoRA and projector: pass its base"):
        convert_pllava(partial, out)
    for wrong in (full, partial):
        with pytest.raises(CheckpointError, match="holds a LoRA, so it is a PLLaVA checkpoint"):
            convert_pllava(partial, out, base=wrong)
    with pytest.raises(CheckpointError, match=r"holds a complete model, so the base .* would not be used"):
        convert_pllava(full, out, base=base)
    with pytest.raises(CheckpointError, match=r"no PLLaVA configuration.*Pass a LLaVA-NeXT folder as the base"):
        convert_pllava(base, out)
    # LLaVA-NeXT weights under a copied config.json.
    (base / "config.json").write_text(json.dumps(raw_config()))
    with pytest.raises(CheckpointError, match=r"image_newline in .* has no place in PLLaVA"):
        convert_pllava(base, out)
    assert not out.exists()


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"encoder.weight": torch.ones(2)}, raw_config())
    with pytest.raises(CheckpointError, match="holds neither a language model nor a LoRA"):
        convert_pllava(source, tmp_path / "out")


def test_a_converted_folder_is_not_converted_again(released: Path, tmp_path: Path) -> None:
    convert_pllava(released, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is already converted"):
        convert_pllava(tmp_path / "out", tmp_path / "again")


def test_doubtful_bases_are_noted(tmp_path: Path) -> None:
    text = {**raw_config()["text_config"], "rope_theta": 1e4}
    source = write_source(tmp_path / "source", partial_tensors(), raw_config(text_config=text))
    tensors = base_tensors()
    del tensors["image_newline"]
    base = write_source(tmp_path / "base", tensors, {"text_config": {"rope_theta": 5e6}, "pooling_shape": [1, 1, 1]})
    notes = " ".join(convert_pllava(source, tmp_path / "out", base=base).notes)
    assert "has no image_newline" in notes
    assert "rope_theta of the language model is 5000000.0" in notes
    assert "describes a PLLaVA model" in notes


def test_fields_without_effect_are_noted(tmp_path: Path) -> None:
    raw = raw_config(pooling_method="max", use_pooling=False)
    report = convert_pllava(write_source(tmp_path / "source", released_tensors(), raw), tmp_path / "out")
    notes = " ".join(report.notes)
    assert "pooling_method 'max'" in notes
    assert "use_pooling=false" in notes
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"pooling_method", "use_cc", "stride", "register", "frame_shape"} & config.keys()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"model_type": "llava", "text_config": {}}, r"config\.json is no PLLaVA configuration.*pooling_shape"),
        (raw_config(frame_shape=[24, 24]), r"config\.json: frame_shape \[24, 24\] does not fit a tower of 16 pixels"),
        (raw_config(frame_shape=24), r"config\.json: frame_shape 24 does not fit"),
        (raw_config(pooling_shape=[2, 2]), r"config\.json cannot be converted: .*pooling_shape"),
        (raw_config(pooling_shape=7), r"config\.json cannot be converted: .*pooling_shape"),
        (raw_config(num_frames=0), r"config\.json cannot be converted: .*num_frames"),
        (raw_config(num_frames="many"), r"config\.json cannot be converted: .*num_frames"),
        (raw_config(projector_hidden_act="magic"), r"config\.json.*magic"),
        (raw_config(vision_feature_select_strategy="full"), "'full' does not run"),
        (raw_config(torch_dtype="int8"), r"config\.json: torch_dtype 'int8' is not one of"),
        (raw_config(text_config=[1]), r"config\.json: text_config must be an object"),
        (raw_config(text_config={"model_type": "nonsense"}), "model_type 'nonsense' is unknown"),
        (raw_config(text_config={"hidden_size": "wide"}), r"config\.json cannot be converted: .*hidden_size"),
        (raw_config(image_token_index=500), "image_token_index 500 is outside of the vocabulary of 120"),
    ],
)
def test_configurations_that_do_not_fit_are_named(tmp_path: Path, raw: dict[str, Any], words: str) -> None:
    source = write_source(tmp_path / "source", released_tensors(), raw)
    with pytest.raises(CheckpointError, match=words) as caught:
        convert_pllava(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert siblings(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, r"source is no PLLaVA checkpoint: it has no config\.json"),
        ("config.json", "{broken", r"config\.json is no readable JSON"),
        ("generation_config.json", "{broken", r"generation_config\.json is no readable JSON"),
        ("generation_config.json", '{"eos_token_id": "two"}', r"generation_config\.json: eos_token_id 'two'"),
        ("preprocessor_config.json", "[]", r"preprocessor_config\.json holds a JSON list"),
        ("preprocessor_config.json", '{"image_mean": "grey"}', r"preprocessor_config\.json.*image_mean"),
        ("tokenizer.json", "{broken", r"tokenizer in .*source cannot be read"),
        ("model.safetensors", "short", r"model\.safetensors is truncated or damaged"),
    ],
)
def test_damaged_files_are_named(released: Path, tmp_path: Path, name: str, content: str | None, words: str) -> None:
    (released / name).unlink(missing_ok=True)
    if content is not None:
        (released / name).write_text(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        convert_pllava(released, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert siblings(tmp_path) == ["source"]


def test_pickles_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(raw_config()))
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle, which can run code"):
        convert_pllava(source, tmp_path / "out")


def test_code_of_a_tokenizer_is_never_run(released: Path, tmp_path: Path) -> None:
    settings = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"}
    (released / "tokenizer_config.json").write_text(json.dumps(settings))
    trap = tmp_path / "trap"
    (released / "evil.py").write_text(f"open({str(trap)!r}, 'w').close()\nclass Tokenizer: pass\n")
    try:
        convert_pllava(released, tmp_path / "out")
    except CheckpointError as error:
        assert "tokenizer in" in str(error)  # noqa: PT017 - whether transformers can do without it is not ours to say
    assert not trap.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_alpha": -1}, "lora_alpha must be a number of at least 0, not -1"),
        ({"merge": float("nan")}, "merge must be a number of at least 0, not nan"),
        ({"merge": 4, "lora_alpha": 8}, "merge=4 merges the LoRA, so lora_alpha=8 would have no effect"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16, not int8"),
        ({"max_shard_size": 0}, "max_shard_size must be at least 1 byte"),
        ({"base": "nowhere"}, "nowhere does not exist: pass the folder of the LLaVA-NeXT base"),
        ({"tokenizer": "nowhere"}, "nowhere does not exist: pass the folder of the tokenizer"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    released: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        convert_pllava(released, tmp_path / "out", **options)
    assert siblings(tmp_path) == ["source"]


def test_options_for_a_lora_need_one(tmp_path: Path) -> None:
    tensors = official_tensors(our_tensors(raw_config()), "plain")
    source = write_source(tmp_path / "source", tensors, raw_config())
    for name in ("merge", "lora_alpha"):
        options: dict[str, Any] = {name: 8}
        with pytest.raises(CheckpointError, match=f"has no LoRA .*{name} would have no effect"):
            convert_pllava(source, tmp_path / "out", **options)


def test_sources_are_never_replaced(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for destination in (released, tmp_path):
        with pytest.raises(CheckpointError, match="is, or contains, the source"):
            convert_pllava(released, destination, overwrite=True)
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    with pytest.raises(CheckpointError, match="is the home or the working folder"):
        convert_pllava(released, tmp_path / "work", overwrite=True)
    with pytest.raises(CheckpointError, match=r"nowhere does not exist: .*hf download"):
        convert_pllava(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a file: pass the folder"):
        convert_pllava(released / "model.safetensors", tmp_path / "out")


def test_a_full_destination_is_kept_unless_asked(released: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_pllava(released, tmp_path / "out")
    assert siblings(tmp_path / "out") == ["mine"]
    convert_pllava(released, tmp_path / "out", overwrite=True)
    assert "mine" not in siblings(tmp_path / "out")
    assert siblings(tmp_path) == ["out", "source"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_an_interrupt_leaves_nothing(released: Path, tmp_path: Path, error: BaseException) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(type(error)):
        convert_pllava(released, tmp_path / "below" / "out", progress=stop)
    assert siblings(tmp_path) == ["source"]


def test_a_full_disk_is_seen_before_writing(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match="has 1,000 bytes free, but the converted weights need"):
        convert_pllava(released, tmp_path / "out")
    assert siblings(tmp_path) == ["source"]
