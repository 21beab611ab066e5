"""The real checkpoints of VideoLLaMA2, at their real shapes: every key has its place, and memory holds a tensor."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch
from transformers import MixtralConfig
from videollama2_sources import (
    language_shapes,
    official_tensors,
    raw_config,
    write_source,
    write_vision_config,
)

from hf_videollm.convert.stream import StoredTensor
from hf_videollm.convert.tensors import model_shapes
from hf_videollm.convert.videollama2.beats import beats_config
from hf_videollm.convert.videollama2.config import build_config, build_vision_config, can_hear
from hf_videollm.convert.videollama2.keys import (
    ConversionPlan,
    official_name,
    our_name,
    plan_conversion,
    sort_tensors,
)
from hf_videollm.models.configuration_beats import BeatsConfig
from hf_videollm.models.modeling_videollama2 import VideoLlama2ForCausalLM
from hf_videollm.models.modeling_videollama2_av import VideoLlama2AVForCausalLM

SHARED = {
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
MISTRAL = {
    **SHARED,
    "model_type": "videollama2_mistral",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "stc_connector",
    "mm_hidden_size": 1024,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "sliding_window": None,
    "rope_theta": 1e6,
    "num_frames": 16,
}
QWEN2 = {
    **SHARED,
    "model_type": "videollama2_qwen2",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "stc_connector_v35",
    "mm_hidden_size": 1152,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "num_frames": 16,
}
AUDIO = {"mm_audio_tower": "audio_tower.bin", "mm_projector_a_type": "mlp2x_gelu", "mm_hidden_size_a": 768}
MIXTRAL = {**MISTRAL, "model_type": "videollama2_mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
LARGE = {
    **MISTRAL,
    "model_type": "videollama2_qwen2",
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "vocab_size": 152064,
}


def key_layout(goldens: Path, name: str) -> dict[str, tuple[int, ...]]:
    layout = json.loads((goldens / "videollama2" / "lm" / "key_layouts" / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in layout["keys"].items()}


def stored(shapes: dict[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(name, Path("file"), shape, torch.bfloat16) for name, shape in shapes.items()}


def plan_of(raw: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> tuple[ConversionPlan, Any, set[str]]:
    """The plan, the configuration, and the names of what was left behind."""
    contents = sort_tensors(stored(shapes), Path("folder"))
    ear = beats_config(contents, {}) if can_hear(raw) else None
    config, notes = build_config(raw, Path("config.json"), build_vision_config(raw, None, None), ear)
    assert notes == []
    model_class = VideoLlama2ForCausalLM if ear is None else VideoLlama2AVForCausalLM
    plan = plan_conversion(model_shapes(config, model_class, Path("config.json")), [contents])
    return plan, config, {tensor.name for tensor in (*contents.dropped, *contents.copies)}


@pytest.mark.parametrize(
    ("name", "raw", "tokens"),
    [
        ("VideoLLaMA2-7B-16F", MISTRAL, 1521),
        ("VideoLLaMA2.1-7B-16F", QWEN2, 1352),
        ("VideoLLaMA2.1-7B-AV", {**QWEN2, **AUDIO}, 1352),
    ],
)
def test_every_key_of_the_real_checkpoints_has_its_place(
    goldens: Path, name: str, raw: dict[str, Any], tokens: int
) -> None:
    shapes = key_layout(goldens, name)
    plan, config, left = plan_of(raw, shapes)
    used = [tensor.name for tensor in plan.tensors]
    assert len(used) == len(set(used))
    assert sorted([*used, *left]) == sorted(shapes)
    # Only the classes of AudioSet, and the copies of the table that BEATs' layers share.
    expected_left = {key for key in shapes if ".predictor." in key}
    expected_left |= {key for key in shapes if key.endswith("relative_attention_bias.weight") and ".0.self" not in key}
    assert left == expected_left
    assert len(left) == (13 if can_hear(raw) else 0)
    assert sum(map(math.prod, plan.shapes.values())) == sum(
        math.prod(shape) for key, shape in shapes.items() if key not in left
    )
    assert config.num_video_tokens(16) == tokens
    assert all(our_name(official_name(ours)) == ours for ours in plan.shapes if ".connector." not in ours)
    if can_hear(raw):
        found, real = config.audio_config.to_dict(), BeatsConfig().to_dict()
        assert {key: found[key] for key in real} == real
        assert config.num_audio_tokens(2998) == 1496


def test_the_8x7b_has_the_keys_of_the_7b_and_experts(goldens: Path) -> None:
    """No layout of it was recorded: Mixtral's keys are those of the public model."""
    others = {k: s for k, s in key_layout(goldens, "VideoLLaMA2-7B-16F").items() if "vision" in k or "mm_" in k}
    shapes = {**language_shapes(MIXTRAL), **others}
    plan, config, left = plan_of(MIXTRAL, shapes)
    used = [tensor.name for tensor in plan.tensors]
    assert sorted(used) == sorted(shapes)
    assert not left
    assert config.text_config.num_local_experts == MixtralConfig().num_local_experts == 8
    fused = plan.pieces["model.language_model.layers.31.mlp.experts.gate_up_proj"]
    assert [tensor.name.split("experts.")[1] for tensor in fused[:3]] == ["0.w1.weight", "0.w3.weight", "1.w1.weight"]
    assert sum(map(math.prod, plan.shapes.values())) == sum(map(math.prod, shapes.values())) > 46e9


def test_the_72b_has_the_keys_of_the_others_at_its_width(goldens: Path) -> None:
    """No layout of it was recorded: Qwen2's language model behind CLIP and the connector of the 7B, made wider."""
    shapes = language_shapes(LARGE)
    for key, shape in key_layout(goldens, "VideoLLaMA2-7B-16F").items():
        if "mm_projector" in key:
            wider = {4096: 8192, **({1024: 2048} if ".se." in key else {})}
            shapes[key] = tuple(wider.get(size, size) for size in shape)
        elif "vision" in key:
            shapes[key] = shape
    plan, config, left = plan_of(LARGE, shapes)
    assert sorted(tensor.name for tensor in plan.tensors) == sorted(shapes)
    assert not left
    assert sum(map(math.prod, plan.shapes.values())) > 72e9
    assert config.vision_feature_select_strategy == "default"


# Memory

MEASURE = """
import json, sys
from pathlib import Path
from hf_videollm.convert.videollama2.convert import convert_videollama2

def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

small, small_out, big, big_out, tower, options = sys.argv[1:]
options = json.loads(options)
convert_videollama2(small, small_out, vision_config=tower)  # a small one first, so that everything lazy is imported
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = status("VmRSS")
report = convert_videollama2(big, big_out, vision_config=tower, max_shard_size=100_000_000, **options)
print(json.dumps({"growth": status("VmHWM") - before, "size": report.weight_bytes, "files": len(report.weight_files)}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak memory counter of Linux")
@pytest.mark.parametrize(
    "layout", ["sharded", *(pytest.param(layout, marks=pytest.mark.slow) for layout in ("sharded bin", "experts"))]
)
def test_memory_holds_a_tensor_and_not_a_checkpoint(tmp_path: Path, layout: str) -> None:
    raw = raw_config(mm_projector_type="mlp2x_gelu")
    large = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 17, "vocab_size": 2000}
    if layout == "experts":
        # One fused tensor has 128 MB; the piece of one expert has 4.
        large |= {"num_hidden_layers": 2, "num_local_experts": 16, "model_type": "videollama2_mixtral"}
    big_raw = {**raw, **large}
    tensors = official_tensors(big_raw)
    small = write_source(tmp_path / "small", raw, official_tensors(raw))
    big = write_source(tmp_path / "big", big_raw, tensors, "sharded" if layout == "experts" else layout)
    tower = write_vision_config(tmp_path / "tower.json")
    places = [small, tmp_path / "small_out", big, tmp_path / "big_out", tower, json.dumps({})]
    run = ready_python.run("-c", MEASURE, *places)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["size"] > 250_000_000
    assert result["files"] >= 3
    # Far below one shard of 100 MB; the largest tensor that is read has 4 MB.
    assert result["growth"] < 60_000_000, result
