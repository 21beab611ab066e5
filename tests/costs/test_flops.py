"""Counts of operations: against the paper, against torch's counter on real weights, and against sums by hand."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForImageTextToText, LlamaConfig

from hf_videollm import PllavaConfig, VideoLlama2AVConfig, VideoLlama2Config
from hf_videollm.costs.counter import measure
from hf_videollm.costs.flops import count_flops, describe_flops, lora_flops_per_token
from hf_videollm.costs.presets import IVA_VARIANTS, all_presets
from hf_videollm.models.configuration_ftfv import FtfvConfig

PRESETS = all_presets()
# A report of a design at its real size takes a second, and several tests look at it.
report_of = functools.cache(describe_flops)
# FTFV, Table 5: kept tokens per frame -> TFLOPs, 8 frames.
TABLE_5 = {4: 32.14, 16: 33.47, 32: 35.24, 64: 38.79, 128: 45.88, 256: 60.07}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
QWEN_VL = {**CLIP, "model_type": "qwen_vl_vision", "position_grid_size": 2}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
BEATS = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_embedding_dim": 12,
    "conv_pos_kernel": 8,
    "conv_pos_groups": 4,
}
TOWERS: dict[str, Any] = {"vision_config": CLIP, "text_config": LLAMA, "num_frames": 4}


def tiny_config(design: str, **changes: Any) -> Any:
    """A design small enough for real weights."""
    if design == "pllava":
        return PllavaConfig(**{**TOWERS, "pooling_shape": [2, 2, 2], **changes})
    if design == "videollama2":
        return VideoLlama2Config(**{**TOWERS, **changes})
    if design == "videollama2_av":
        return VideoLlama2AVConfig(**{**TOWERS, "audio_config": BEATS, **changes})
    adapter = {"num_queries": 9, "num_tokens_per_frame": 4, "adapter_width": 24, "adapter_num_heads": 3}
    return FtfvConfig(**{**TOWERS, "vision_config": QWEN_VL, **adapter, **changes})


DESIGNS = ("pllava", "videollama2", "videollama2_av", "ftfv")


# The paper's numbers


def test_property_8_table_5_of_ftfv_within_a_thousandth() -> None:
    report = describe_flops(design="ftfv")
    counted = {row.tokens_per_frame: row for row in report.by_tokens_per_frame}
    assert list(counted) == list(TABLE_5)
    for kept, published in TABLE_5.items():
        assert counted[kept].total.weights / 1e12 == pytest.approx(published, rel=1e-3)
        assert counted[kept].published == published
        assert counted[kept].media_tokens == 8 * kept
    # docs/designs/ftfv.md#operations: one more token costs 13.854 GFLOP, the tower 30.17 TFLOP, the adapter 0.87.
    slope = (counted[256].total.weights - counted[4].total.weights) / (8 * 252)
    assert slope / 1e9 == pytest.approx(13.854, abs=5e-4)
    assert report.parts["vision tower"].weights / 1e12 == pytest.approx(30.17, abs=5e-3)
    assert report.parts["connector"].weights / 1e12 == pytest.approx(0.87, abs=5e-3)
    assert report.tokens_per_frame == 128
    assert report.total.weights == counted[128].total.weights


def test_all_products_of_ftfv_by_hand() -> None:
    """Everything that the modules compute at 448 pixels, from the sizes in the paper."""
    report = describe_flops(design="ftfv", tokens_per_frame=16)
    frames, patches, width, wide, queries, kept = 8, 1024, 1664, 4096, 256, 16
    tower_attention = 48 * frames * 2 * 2 * patches * patches * width
    assert report.parts["vision tower"].total - report.parts["vision tower"].weights == tower_attention
    keys_and_values = 2 * frames * patches * (width * wide + 2 * wide * wide)
    attention = 2 * 2 * frames * queries * patches * wide
    # Queries are projected once, and only the kept ones go through out_proj and proj.
    projections = 2 * wide * wide * (queries + 2 * frames * kept)
    assert report.parts["connector"].total == keys_and_values + attention + projections
    length = frames * kept + 48
    assert report.parts["language model"].total - report.parts["language model"].weights == (
        32 * 2 * 2 * length * length * wide
    )
    assert report.by_tokens_per_frame == []


def test_presets_have_the_tokens_of_their_papers() -> None:
    """PLLaVA section 3.3: 16 x 12 x 12. VideoLLaMA2's connectors on grids of 24 and 27; 30 s of sound are 1496."""
    tokens = {name: preset.config().num_video_tokens(preset.config().num_frames) for name, preset in PRESETS.items()}
    assert tokens == {
        "pllava": 2304,
        "videollama2": 9 * 13 * 13,
        "videollama2.1": 8 * 13 * 13,
        "videollama2_av": 8 * 13 * 13,
        "ftfv": 8 * 128,
        **dict.fromkeys(IVA_VARIANTS, 2 * 60),
    }


@pytest.mark.parametrize(
    ("design", "parameters"),
    [
        ("pllava", 6_738_939_904),  # LLaMA-7B with 64 further tokens (embedding and head)
        ("videollama2", 7_241_732_096),
        ("videollama2.1", 7_615_616_512),
        ("videollama2_av", 7_615_616_512),
        ("ftfv", 6_738_415_616),
        ("iva", 6_738_415_616),
    ],
)
def test_presets_have_the_language_models_of_their_papers(design: str, parameters: int) -> None:
    """Published sizes of Vicuna 7B, Mistral 7B and Qwen2 7B."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(PRESETS[design].config())
    counted = model.model.language_model.num_parameters() + model.lm_head.weight.numel()
    assert counted == parameters
    if design == "ftfv":
        # docs/designs/ftfv.md#vision-tower: Qwen-VL's visual module has 1,935,610,624; the temporal code comes on top.
        visual = model.model.vision_tower.num_parameters() + sum(p.numel() for p in model.model.connector.parameters())
        assert visual == 1_935_610_624 + 8 * 1664


@pytest.mark.parametrize("design", sorted(PRESETS))
def test_every_preset_is_counted(design: str) -> None:
    report = report_of(design=design, text_tokens=10, lora_rank=0)
    assert report.total.total > report.total.weights > 10**13
    assert sum(part.total for part in report.parts.values()) == report.total.total
    has_sound = design == "videollama2_av"
    assert ("audio tower" in report.parts) == has_sound
    config = PRESETS[design].config()
    assert report.media_tokens == config.num_video_tokens(config.num_frames) + (1496 if has_sound else 0)
    assert json.loads(json.dumps(report.to_dict()))["parts"]["vision tower"]["total"] > 0


@pytest.mark.parametrize("name", sorted(IVA_VARIANTS))
def test_rows_of_ivas_tables(name: str) -> None:
    """Table 3's insertion points, one adapter of the same size for all (docs/designs/iva.md#the-folded-form)."""
    config = PRESETS[name].config()
    steps = {"iva-ni4": 8, "iva-ni16": 2}
    assert config.insertion_layers == ([] if name == "iva-without" else list(range(0, 32, steps.get(name, 4))))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    report = report_of(design=name, text_tokens=10, lora_rank=0)
    if name == "iva-without":
        assert not hasattr(model.model, "adapter")
        assert "adapter" not in report.parts
        assert report.text_tokens == 10
        return
    queries = {"iva-lq8": 8, "iva-lq32": 32}.get(name, 16)
    assert model.model.query_tokens.weight.shape == (queries, 4096)
    assert report.text_tokens == 10 + queries
    assert round(sum(part.numel() for part in model.model.adapter.parameters()) / 1e6) == 67
    # Of 8 calls for 16 queries: 21 for the folded products, and those of the linear layers of the queries.
    per_call_and_query = report.parts["adapter"].total / 2e9 / len(config.insertion_layers) / queries
    assert 21 < per_call_and_query * 8 * 16 < 30


def test_long_videos_for_iva_are_counted() -> None:
    """Ten minutes, whose features would go to the host's memory. A frame costs its products in Eq. 3, and no more."""
    minute, long = (describe_flops(design="iva", num_frames=frames) for frames in (60, 600))
    assert long.media_tokens == 1200
    pairs, queries, width, patches = 8 * 4, 16, 1024, 576
    per_frame = 2 * pairs * queries * width * (1 + patches)
    assert long.parts["adapter"].total - minute.parts["adapter"].total == 540 * per_frame


# Real weights


def layer_flops(module: nn.Module, run: Callable[[], Any]) -> int:
    """Twice the multiply-adds of all linear layers and convolutions that run, by the sizes that they see."""
    total = 0

    def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        # Each output value of a layer is a sum over the weights of one output channel.
        per_value = layer.weight[0].numel()
        total += 2 * output.numel() * per_value

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_counter_equals_torchs_own_on_real_weights(design: str, attention: str) -> None:
    config = tiny_config(design)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    pixels = torch.randn(1, 4, 3, 16, 16)

    def run() -> Any:
        return model.get_video_features(pixels), model.model.language_model(inputs_embeds=torch.randn(1, 7, 32))

    flops, _ = measure(model, run)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        run()
    assert flops.total == theirs.get_total_flops()
    if design != "ftfv":  # whose adapter keeps parameters that belong to no layer
        assert flops.weights == layer_flops(model, run)


@pytest.mark.parametrize("design", DESIGNS)
def test_meta_device_counts_what_real_weights_compute(design: str) -> None:
    config = tiny_config(design)
    report = count_flops(config, num_frames=4, text_tokens=5)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        tokens = len(model.get_video_features(torch.randn(1, 4, 3, 16, 16)).pooler_output[0])
        if design == "videollama2_av":
            tokens += len(model.get_audio_features(torch.randn(1, 2998, 128)).pooler_output[0])
        model.lm_head(model.model.language_model(inputs_embeds=torch.randn(1, tokens + 5, 32)).last_hidden_state)
    assert report.media_tokens == tokens
    assert report.total.total == theirs.get_total_flops()


def test_weight_layers_of_the_adapter_by_hand() -> None:
    """Every frame through the whole adapter, however many tokens are kept."""
    patches, width, wide, queries, text = 16, 16, 24, 9, 32
    frame = patches * (width * wide + 2 * wide * wide) + queries * (wide * wide + wide * wide + wide * text)
    for kept in (1, 4, 9):
        report = count_flops(tiny_config("ftfv"), num_frames=3, tokens_per_frame=kept)
        assert report.parts["connector"].weights == 3 * 2 * frame
        assert report.media_tokens == 3 * kept


def test_decoded_token_and_cache_by_hand() -> None:
    report = count_flops(tiny_config("pllava"), text_tokens=5)
    length = report.media_tokens + 5
    layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48  # q and o, k and v, and the MLP
    assert report.decoded_token.weights == 2 * (2 * layer + 32 * 120)
    assert report.decoded_token.total - report.decoded_token.weights == 2 * 2 * 2 * (length + 1) * 32
    # 2 (keys and values) x 2 layers x 2 heads x 8 wide x 2 bytes
    assert report.kv_cache_bytes_per_token == 128
    assert report.kv_cache_bytes == 128 * length


def test_lora_adds_what_peft_adds() -> None:
    config = LlamaConfig(**{name: value for name, value in LLAMA.items() if name != "model_type"})
    model = AutoModel.from_config(config)
    added = lora_flops_per_token(model, 5)
    inputs = torch.randn(1, 7, 32)

    def count() -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(inputs_embeds=inputs)
        return counter.get_total_flops()

    plain = count()
    inject_adapter_in_model(LoraConfig(r=5, target_modules="all-linear"), model)
    assert count() - plain == 7 * added
    report = count_flops(tiny_config("pllava"), text_tokens=6, lora_rank=5)
    assert report.parts["LoRA of rank 5, unmerged"].total == (report.media_tokens + 6) * added
    assert report.decoded_token.total - added == count_flops(tiny_config("pllava"), text_tokens=6).decoded_token.total


def test_every_token_meets_the_experts_that_are_chosen_for_it() -> None:
    """Two of three experts; what torch's own counter leaves out."""
    if not hasattr(torch.ops.aten, "_grouped_mm"):
        pytest.skip("this torch has no grouped product, and the experts cannot be chosen without weights")
    sparse = {**LLAMA, "model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
    dense, mixture = count_flops(tiny_config("pllava")), count_flops(tiny_config("pllava", text_config=sparse))
    length = dense.media_tokens + 48
    added = 2 * 2 * length * (3 * 32 * 48 + 32 * 3)  # 2 layers: one more MLP, and the router
    assert mixture.parts["language model"].weights - dense.parts["language model"].weights == added
    assert mixture.total.total - dense.total.total == added


def test_checkpoint_of_ftfv_gets_a_table_of_its_own(tmp_path: Path) -> None:
    tiny_config("ftfv", num_queries=16).save_pretrained(tmp_path)
    report = describe_flops(tmp_path)
    assert [row.tokens_per_frame for row in report.by_tokens_per_frame] == [1, 2, 4, 8, 16]
    assert {row.published for row in report.by_tokens_per_frame} == {None}
    totals = [row.total.total for row in report.by_tokens_per_frame]
    assert totals == sorted(set(totals))


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, not 0"),
        ({"text_tokens": 0}, "text_tokens must be at least 1, not 0"),
        ({"lora_rank": -1}, "lora_rank must be at least 0, not -1"),
        ({"tokens_per_frame": 3}, "tokens_per_frame has no effect for pllava"),
    ],
)
def test_numbers_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_flops(tiny_config("pllava"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [0, 10])
def test_tokens_per_frame_outside_of_the_queries(kept: int) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 1 to 9"):
        count_flops(tiny_config("ftfv"), tokens_per_frame=kept)


def test_lora_needs_the_layers_it_adapts() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 120}
    with pytest.raises(ValueError, match="GPT2Model has no linear layers"):
        count_flops(tiny_config("pllava", text_config=gpt2), lora_rank=4)


def test_either_a_checkpoint_or_a_design() -> None:
    for arguments in ({}, {"checkpoint": "x", "design": "ftfv"}):
        with pytest.raises(ValueError, match="Give either a checkpoint or a design"):
            describe_flops(**arguments)
    with pytest.raises(ValueError, match="design 'llava' is unknown: choose one of pllava, "):
        describe_flops(design="llava")


# The command


def test_command(cli: Callable[..., tuple[int, str, str]], tiny_checkpoint: str) -> None:
    code, out, _ = cli("flops", "--design", "ftfv")
    assert code == 0
    for number in ("60.07", "45.88", "vision tower", "all products"):
        assert number in out
    code, out, _ = cli("flops", tiny_checkpoint, "--frames", "2", "--text-tokens", "7", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["num_frames"], facts["text_tokens"], facts["design"]) == (2, 7, "pllava")
    code, out, error = cli("flops", tiny_checkpoint, "--tokens-per-frame", "2")
    assert (code, out) == (2, "")
    assert error.startswith("error: --tokens-per-frame has no effect for pllava")
    code, out, _ = cli("flops", "--help")
    assert code == 0
    assert "hf-videollm flops --design ftfv" in out
