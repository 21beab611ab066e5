"""Whatever is wrong with a VideoLLaMA2 checkpoint or an option: one line that names it, and nothing is written."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch
from refusals import Change, put, refusal, siblings, without
from safetensors.torch import save_file
from videollama2_sources import (
    RANK,
    VISION_CONFIG,
    golden_source,
    golden_tensors,
    language_shapes,
    lora_tensors,
    mlp_shapes,
    official_tensors,
    random_tensors,
    raw_config,
    vision_tensors,
    write_config,
    write_source,
    write_vision_config,
    write_weights,
)

from hf_videollm.cli.commands import main
from hf_videollm.convert.videollama2.convert import convert_videollama2
from hf_videollm.models.errors import CheckpointError

RAW = raw_config(mm_projector_type="mlp2x_gelu")
UP = "model.layers.1.mlp.up_proj.weight"
VISION = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Description of the made-up vision tower."""
    return write_vision_config(tmp_path_factory.mktemp("tower") / "tower.json")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A whole made-up checkpoint without tokenizer."""
    return write_source(tmp_path / "source", RAW, official_tensors(RAW))


def refused(tmp_path: Path, source: Path, words: str, **options: Any) -> None:
    """The conversion fails with one line that holds `words`, and leaves nothing behind."""
    with refusal(tmp_path, words):
        convert_videollama2(source, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(UP), rf"^{UP} is missing in .*index\.json"),
        (without("lm_head.weight"), r"^lm_head\.weight is missing in"),
        (
            without("model.mm_projector.2.bias"),
            r"^model\.mm_projector\.2\.bias is missing",
        ),
        (without(f"{VISION}pre_layrnorm.bias"), rf"^{VISION}pre_layrnorm\.bias is missing in"),
        (put("surprise.weight", torch.ones(1)), r"surprise\.weight in .*safetensors has no place in VideoLLaMA2"),
        (put("model.layers.2.input_layernorm.weight", torch.ones(32)), r"layers\.2\.input_layernorm.* has no place"),
        (put("model.mm_projector_a.0.weight", torch.ones(32, 8)), r"mm_projector_a\.0\.weight in .* has no place"),
        (
            put("model.audio_tower.layer_norm.weight", torch.ones(8)),
            r"audio_tower\.layer_norm\.weight in .* has no place",
        ),
        (put(UP, torch.ones(47, 32)), rf"{UP} in .* has the shape \(47, 32\) instead of \(48, 32\)"),
        (put(UP, torch.ones(48, 32, dtype=torch.int8)), rf"{UP} in .* is int8: quantized weights"),
        (
            put(f"{VISION}embeddings.patch_embedding.weight", torch.ones(16, 3, 14, 14)),
            r"has the shape \(16, 3, 14, 14\)",
        ),
        (put("model.model.norm.weight", torch.ones(32)), r"are both meant for model\.language_model\.norm\.weight"),
        (put("model.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(2, 32)), r"holds a LoRA among its weights"),
        (put("model.language_model.norm.weight", torch.ones(2)), r"is already converted"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, tower: Path, change: Change, words: str) -> None:
    tensors = official_tensors(RAW)
    change(tensors)
    source = write_source(tmp_path / "source", RAW, tensors, "sharded")
    refused(tmp_path, source, words, vision_config=tower)


def test_a_missing_expert_is_named_as_its_owner_would(tmp_path: Path, tower: Path) -> None:
    raw = {**RAW, "model_type": "videollama2_mixtral", "num_local_experts": 3}
    tensors = official_tensors(raw)
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    del tensors[name]
    refused(tmp_path, write_source(tmp_path / "source", raw, tensors), f"^{name} is missing in", vision_config=tower)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llava"}, r"is no VideoLLaMA2 configuration \(model_type 'llava'"),
        ({"model_type": "mistral"}, "Pass a language model as the base"),
        ({"mm_vision_tower": None}, "names no vision tower"),
        ({"model_type": "videollama2", "text_config": {"a": 1}}, "is already converted: load .* with from_pretrained"),
        ({"mm_vision_select_layer": None}, "has no mm_vision_select_layer"),
        ({"mm_vision_select_layer": -9}, r"vision_feature_layer -9 is out of range"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls' does not run with clip"),
        ({"mm_projector_type": "magic"}, r"connector_type 'magic' is unknown: choose one of stc_connector"),
        ({"mm_projector_type": "identity"}, r"connector_type 'identity' is unknown"),
        ({"mm_projector_type": "stc_connector_v35", "num_frames": 1}, "sample at least 2 frames"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": "many"}, "num_frames"),
        ({"hidden_size": "wide"}, r"config\.json cannot be converted: .*hidden_size"),
        ({"mm_hidden_size": 1152}, "mm_hidden_size 1152 does not fit a vision tower of width 16"),
        ({"torch_dtype": "int8"}, "torch_dtype 'int8' is not one of"),
    ],
)
def test_configurations_that_do_not_fit_are_named(
    source: Path, tmp_path: Path, tower: Path, changes: dict[str, Any], words: str
) -> None:
    write_config(source, {name: value for name, value in {**RAW, **changes}.items() if value is not None})
    refused(tmp_path, source, words, vision_config=tower)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (None, r"The vision tower 'my/clip-tiny' of config\.json is not one of .*--vision-config"),
        ("{", r"tower\.json is no readable JSON"),
        ('{"model_type": "dinov2"}', r"describes a tower of the type 'dinov2'"),
        (json.dumps({**VISION_CONFIG, "hidden_size": "wide"}), r"tower\.json cannot be used: .*hidden_size"),
        (json.dumps({**VISION_CONFIG, "num_hidden_layers": 4}), r"encoder\.layers\.3\.\S+ is missing in"),
    ],
)
def test_descriptions_of_the_tower_are_checked(
    source: Path, tmp_path: Path, description: str | None, words: str
) -> None:
    options = {}
    if description is not None:
        (tmp_path / "tower.json").write_text(description)
        options["vision_config"] = tmp_path / "tower.json"
    refused(tmp_path, source, words, **options)


def test_towers_are_known_by_the_last_part_of_their_name(source: Path, tmp_path: Path) -> None:
    for name in ("openai/clip-vit-large-patch14-336", "/models/google/siglip-so400m-patch14-384/"):
        write_config(source, {**RAW, "mm_vision_tower": name})
        refused(tmp_path, source, r"mm_hidden_size 16 does not fit a vision tower of width (1024|1152)")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, r"source is no VideoLLaMA2 checkpoint: it has no config\.json"),
        ("config.json", "{broken", r"config\.json is no readable JSON"),
        ("generation_config.json", "{broken", r"generation_config\.json is no readable JSON"),
        ("generation_config.json", '{"eos_token_id": "two"}', r"generation_config\.json: eos_token_id 'two'"),
        ("tokenizer.json", "{broken", r"tokenizer in .*source cannot be read"),
        ("model.safetensors", "short", r"model\.safetensors is truncated or damaged"),
        ("model.safetensors", None, r"source has no weights: expected model\.safetensors"),
    ],
)
def test_damaged_files_are_named(
    source: Path, tmp_path: Path, tower: Path, name: str, content: str | None, words: str
) -> None:
    (source / name).unlink(missing_ok=True)
    if content is not None:
        (source / name).write_text(content)
    refused(tmp_path, source, words, vision_config=tower)


def test_a_tokenizer_of_another_model_is_refused(goldens: Path, tmp_path: Path) -> None:
    lm = goldens / "videollama2" / "lm"
    raw = {**RAW, "vocab_size": 300}
    source = write_source(tmp_path / "source", raw, official_tensors(raw))
    shutil.copytree(lm / "tokenizers" / "tok_sp", source, dirs_exist_ok=True)
    description = write_vision_config(tmp_path / "tower.json")
    refused(tmp_path, source, r"has \d+ tokens, the model only 300", vision_config=description)


def test_a_hostile_pickle_is_one_error(source: Path, tmp_path: Path, tower: Path) -> None:
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch trap'\ntR.")
    refused(
        tmp_path,
        source,
        r"pytorch_model\.bin (is a pickle that wants to run|cannot be read|is no PyTorch file)",
        vision_config=tower,
    )


# Partial checkpoints


def projector_only(folder: Path, **changes: Any) -> Path:
    source = write_config(folder, {**RAW, **changes})
    save_file(random_tensors(mlp_shapes(RAW), seed=2), source / "mm_projector.safetensors")
    return source


def plain_base(folder: Path) -> Path:
    return write_source(folder, {"model_type": "mistral"}, random_tensors(language_shapes(RAW)))


def test_what_a_projector_lacks_is_asked_for(tmp_path: Path, tower: Path) -> None:
    source = projector_only(tmp_path / "source", _name_or_path="mistralai/Mistral-7B-Instruct-v0.2")
    words = r"holds only projectors: .*config\.json says mistralai/Mistral-7B-Instruct-v0\.2.*--base"
    refused(tmp_path, source, words, vision_config=tower)
    base = plain_base(tmp_path / "base")
    words = r"does not hold its vision tower: pass the checkpoint of my/clip-tiny \(--vision PATH\)"
    refused(tmp_path, source, words, base=base, vision_config=tower)
    clip = write_weights(tmp_path / "clip", vision_tensors())
    refused(tmp_path, source, "is not one of .*--vision-config", base=base, vision=clip)
    write_config(tmp_path / "empty", {})
    refused(tmp_path, source, "empty has no weights", base=tmp_path / "empty", vision_config=tower)
    refused(tmp_path, source, "empty has no weights", base=base, vision=tmp_path / "empty", vision_config=tower)
    text_only = write_weights(tmp_path / "text", {"text_model.norm.weight": torch.ones(2)})
    refused(tmp_path, source, "holds no vision tower", base=base, vision=text_only, vision_config=tower)
    damaged = vision_tensors()
    del damaged["vision_model.post_layernorm.bias"]
    damaged_clip = write_weights(tmp_path / "damaged", damaged)
    words = rf"^vision_model\.post_layernorm\.bias is missing in {damaged_clip}"
    refused(tmp_path, source, words, base=base, vision=damaged_clip, vision_config=tower)
    # With everything, it works.
    convert_videollama2(source, tmp_path / "out", base=base, vision=clip, vision_config=tower)


def test_a_projector_is_never_borrowed_in_part(tmp_path: Path, tower: Path) -> None:
    source = write_config(tmp_path / "source", RAW)
    tensors = random_tensors(mlp_shapes(RAW))
    del tensors["model.mm_projector.2.bias"]
    save_file(tensors, source / "mm_projector.safetensors")
    base = write_source(tmp_path / "base", RAW, official_tensors(RAW))
    words = r"mm_projector\.2\.bias is missing in .*mm_projector\.safetensors"
    refused(tmp_path, source, words, base=base, vision_config=tower)


def test_files_of_training_hold_what_they_are_named_after(tmp_path: Path, tower: Path) -> None:
    source = projector_only(tmp_path / "source")
    save_file({**random_tensors(mlp_shapes(RAW)), UP: torch.ones(48, 32)}, source / "mm_projector.safetensors")
    base = plain_base(tmp_path / "base")
    refused(tmp_path, source, rf"should hold only the connector, but holds {UP}", base=base, vision_config=tower)


def test_options_that_mean_nothing_are_refused(source: Path, tmp_path: Path, tower: Path) -> None:
    base = plain_base(tmp_path / "base")
    clip = write_weights(tmp_path / "clip", vision_tensors())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"base": base}, "holds a complete model, so the base .* would not be used"),
        ({"vision": clip}, "holds its vision tower, so .* would not be used"),
        ({"audio_tower": clip / "model.safetensors"}, "has no audio .*leave --audio-tower out"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"max_shard_size": 0}, "max_shard_size must be at least 1 byte"),
        ({"base": tmp_path / "nowhere"}, "nowhere does not exist: pass the folder of the base"),
        ({"tokenizer": tmp_path / "nowhere"}, "nowhere does not exist: pass the folder of the tokenizer"),
        ({"tokenizer": clip}, "clip holds no tokenizer"),
    ]
    for options, words in cases:
        refused(tmp_path, source, words, **{"vision_config": tower, **options})
    for destination in (source, tmp_path):
        with pytest.raises(CheckpointError, match="is, or contains, the source"):
            convert_videollama2(source, destination, vision_config=tower, overwrite=True)
    with pytest.raises(CheckpointError, match="is, or contains, the vision_config"):
        convert_videollama2(source, tower.parent, vision_config=tower, overwrite=True)


# LoRA


def write_lora(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    source = write_config(folder, RAW)
    save_file(tensors, source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 8, **settings}))
    return source


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, r"r 0 and lora_alpha 8 are not a valid rank"),
        ({"lora_alpha": "much"}, r"lora_alpha 'much' are not a valid rank and alpha"),
        ({"use_dora": True}, r"use_dora=True cannot be converted: merge the adapter with peft"),
        ({"alpha_pattern": {"q_proj": 3}}, r"alpha_pattern=.* cannot be converted"),
        ({"bias": "all"}, r"bias='all' cannot be converted"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    tmp_path: Path, tower: Path, settings: dict[str, Any], words: str
) -> None:
    source = write_lora(tmp_path / "source", lora_tensors(RAW), **settings)
    refused(tmp_path, source, words, vision_config=tower, base=tmp_path)


LAYER = "base_model.model.model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(f"{LAYER}.lora_B.weight"), r"factor B of the LoRA of model\.layers\.0\.mlp\.up_proj is missing"),
        (put(f"{LAYER}.lora_B.weight", torch.ones(7, RANK)), r"and its B \(7, 4\), not \(rank, 32\) and \(48, rank\)"),
        (put(f"{LAYER}.lora_A.weight", torch.ones(RANK)), r"is \(4\) and its B"),
        (put(f"{LAYER}.lora_magnitude_vector", torch.ones(48)), "lora_magnitude_vector in .* has no place"),
        (
            lambda tensors: tensors.update(
                {f"base_model.model.model.norm.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
            ),
            "adapts no linear layer",
        ),
    ],
)
def test_factors_that_do_not_fit_are_named(tmp_path: Path, tower: Path, change: Change, words: str) -> None:
    tensors = lora_tensors(RAW)
    change(tensors)
    source = write_lora(tmp_path / "source", tensors)
    base = write_source(tmp_path / "base", RAW, official_tensors(RAW))
    refused(tmp_path, source, words, base=base, vision_config=tower)


def test_a_lora_needs_its_files(tmp_path: Path, tower: Path) -> None:
    source = write_lora(tmp_path / "source", lora_tensors(RAW))
    refused(tmp_path, source, r"holds only a LoRA: pass the folder", vision_config=tower)
    (source / "adapter_config.json").unlink()
    refused(tmp_path, source, r"adapter_config\.json is missing", vision_config=tower)
    save_file({"model.norm.weight": torch.ones(32)}, source / "adapter_model.safetensors")
    refused(tmp_path, source, r"adapter_model\.safetensors holds no LoRA", vision_config=tower)
    write_weights(source, official_tensors(RAW))
    refused(tmp_path, source, r"is a LoRA, but .* also holds complete weights", vision_config=tower)
    stray = write_config(tmp_path / "stray", RAW)
    save_file(random_tensors(mlp_shapes(RAW)), stray / "non_lora_trainables.safetensors")
    refused(tmp_path, stray, r"belongs to a LoRA, whose adapter_model\.safetensors is missing", vision_config=tower)


# Audio


def write_av(lm: Path, folder: Path, change: Change = lambda tensors: None, **changes: Any) -> tuple[Path, Path]:
    raw = {**json.loads((lm / "qwen2_av" / "config.json").read_text()), **changes}
    tensors = golden_tensors(lm, "qwen2_av")
    change(tensors)
    return write_source(folder, raw, tensors), lm / "qwen2" / "vision_config.json"


def no_audio(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("model.audio_tower.")]:
        del tensors[name]


EAR = "model.audio_tower."
TABLE = f"{EAR}encoder.layers.1.self_attn.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("change", "changes", "words"),
    [
        (
            lambda tensors: tensors[TABLE].add_(1e-3),
            {},
            r"layers\.0\..* and .*layers\.1\..* differ, but all layers of BEATs",
        ),
        (without(f"{EAR}encoder.layers.0.fc1.weight"), {}, r"fc1\.weight is missing in .*: this is no BEATs"),
        (without(f"{EAR}encoder.layers.1.fc2.bias"), {}, r"audio_tower\.encoder\.layers\.1\.fc2\.bias is missing"),
        (without(f"{EAR}encoder.pos_conv.0.weight_g"), {}, r"pos_conv\.0\.weight_g is missing"),
        (put(f"{EAR}encoder.pos_conv.0.weight_v", torch.ones(48)), {}, r"weight_v has the shape \(48,\)"),
        (without("model.mm_projector_a.2.bias"), {}, r"^model\.mm_projector_a\.2\.bias is missing"),
        (no_audio, {}, r"does not hold its audio tower: pass the BEATs file \(--audio-tower FILE"),
        (
            lambda tensors: None,
            {"mm_projector_a_type": "stc_connector"},
            r"mm_projector_a_type 'stc_connector' is unknown",
        ),
        (lambda tensors: None, {"mm_audio_tower": None}, r"has no place in VideoLLaMA2"),
    ],
)
def test_audio_that_does_not_fit_is_named(
    goldens: Path, tmp_path: Path, change: Change, changes: dict[str, Any], words: str
) -> None:
    source, description = write_av(goldens / "videollama2" / "lm", tmp_path / "source", change, **changes)
    refused(tmp_path, source, words, vision_config=description)


def test_an_audio_tower_that_is_there_already_is_not_replaced(goldens: Path, tmp_path: Path) -> None:
    source, description = write_av(goldens / "videollama2" / "lm", tmp_path / "source")
    words = r"holds the audio tower, so .* would not be used"
    refused(tmp_path, source, words, vision_config=description, audio_tower=source / "model.safetensors")


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path, tower: Path, error: BaseException) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(type(error)):
        convert_videollama2(source, tmp_path / "below" / "out", vision_config=tower, progress=stop)
    assert siblings(tmp_path) == ["source"]


def test_a_full_disk_is_seen_before_writing(
    source: Path, tmp_path: Path, tower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    refused(tmp_path, source, "has 1,000 bytes free, but the converted weights need", vision_config=tower)


def test_a_full_destination_is_kept_unless_asked(source: Path, tmp_path: Path, tower: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_videollama2(source, tmp_path / "out", vision_config=tower)
    assert siblings(tmp_path / "out") == ["mine"]
    convert_videollama2(source, tmp_path / "out", vision_config=tower, overwrite=True)
    assert "mine" not in siblings(tmp_path / "out")
    assert siblings(tmp_path) == ["out", "source"]


# The command line


def test_the_command_converts_and_reports(goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = goldens / "videollama2" / "lm"
    source = golden_source(lm, "qwen2", tmp_path / "source")
    command = ["convert", "videollama2", str(source)]
    with pytest.raises(SystemExit) as stop:
        main([*command, str(tmp_path / "out"), "--vision-config", str(lm / "qwen2" / "vision_config.json"), "--json"])
    output = capsys.readouterr()
    assert stop.value.code == 0
    report = json.loads(output.out)
    assert (report["design"], report["kind"], report["has_processor"]) == ("videollama2", "complete", True)
    assert output.err == ""  # progress is shown on terminals alone
    with pytest.raises(SystemExit) as stop:
        main([*command, str(tmp_path / "again")])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.err.startswith("error: The vision tower 'siglip-tiny'")
    assert len(output.err.splitlines()) == 1
    assert siblings(tmp_path) == ["out", "source"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_while_a_pickle_is_read_leaves_nothing(
    source: Path, tmp_path: Path, tower: Path, number: signal.Signals
) -> None:
    (source / "model.safetensors").unlink()
    # A pipe that nobody writes to: the child waits for its content as for a slow disk.
    os.mkfifo(tmp_path / "pipe")
    hanging = tmp_path / "hanging.py"
    hanging.write_text(f"open({str(tmp_path / 'pipe')!r}).read()\n")
    write_weights(source, official_tensors(RAW), "bin")
    code = (
        # A test run in the background of a shell ignores Ctrl-C, and so would what it starts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from pathlib import Path; from hf_videollm.hub import pickle_reader; "
        f"pickle_reader.CHILD = Path({str(hanging)!r}); from hf_videollm.cli.commands import main; main(sys.argv[1:])"
    )
    arguments = ["convert", "videollama2", str(source), str(tmp_path / "out"), "--vision-config", str(tower)]
    with (tmp_path / "words").open("wb") as stderr:
        process = ready_python.start("-c", code, *arguments, stderr=stderr)
    deadline = time.monotonic() + 120
    while not any(path.is_dir() for path in tmp_path.rglob("pickles.*/pickle.*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Long enough for the child to have begun; it is gone with its parent.
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert "nothing half-written is left behind" in (tmp_path / "words").read_text()
    assert siblings(tmp_path) == ["hanging.py", "pipe", "source", "words"]
    # Nobody reads from the pipe any more, or opening it would succeed.
    with pytest.raises(OSError, match="No such device or address"):
        os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)
