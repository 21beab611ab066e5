"""The predicted memory is that of the tensors that a real run of the same model holds at once."""

from typing import Any

import pytest
import torch
from tiny_image_llms import make_linvt
from transformers import AutoModelForImageTextToText

from hf_videollm.costs.info import FRAMES_OF_30_SECONDS
from hf_videollm.costs.live_bytes import LiveBytes, unique_bytes
from hf_videollm.costs.memory import make_inputs, predict_memory
from hf_videollm.hub.checkpoint import bundled_checkpoints, default_checkpoint
from hf_videollm.inference import load_design_config

TEXT_TOKENS = 24
# What shapes do not tell: masks and positions that are made on another device in the run without values.
TOLERANCE = 0.01


def measured(name: str, inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> int:
    """Bytes of the tensors of a real run: weights, inputs, and the most that was alive besides them."""
    model = AutoModelForImageTextToText.from_pretrained(default_checkpoint(name), dtype=dtype)
    real = {
        key: torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else value for key, value in inputs.items()
    }
    media = unique_bytes(value for value in real.values() if value.is_floating_point() and value.ndim > 2)
    own = [*model.parameters(), *model.buffers()]
    with torch.no_grad(), LiveBytes("cpu", [*own, *real.values()]) as counter:
        model(**real, logits_to_keep=1, use_cache=True)
    return unique_bytes(own) + media + counter.peak


@pytest.mark.parametrize("name", bundled_checkpoints())
@pytest.mark.parametrize("num_frames", [None, 5])
def test_the_prediction_is_what_a_run_holds(name: str, num_frames: int | None) -> None:
    config = load_design_config(default_checkpoint(name))
    sound = FRAMES_OF_30_SECONDS // 10 if "audio" in config.modalities else None
    options: dict[str, Any] = {"text_tokens": TEXT_TOKENS, "sound_frames": sound, "num_frames": num_frames}
    predicted = predict_memory(config, dtype=torch.float32, **options)
    assert predicted.total == predicted.weights + predicted.inputs + predicted.activations
    inputs = make_inputs(config, torch.float32, num_frames or config.num_frames, TEXT_TOKENS, sound)
    assert predicted.total == pytest.approx(measured(name, inputs, torch.float32), rel=TOLERANCE)


def test_half_the_type_is_half_the_memory() -> None:
    config = load_design_config(default_checkpoint())
    exact, half = (predict_memory(config, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.weights == pytest.approx(exact.weights / 2, rel=0.01)
    assert half.inputs * 2 == exact.inputs
    assert half.activations < 0.7 * exact.activations


def test_more_frames_need_more_and_known_weights_replace_counted_ones() -> None:
    config = load_design_config(default_checkpoint())
    few, many = (predict_memory(config, num_frames=number) for number in (8, 64))
    assert many.inputs == 8 * few.inputs
    assert many.activations > few.activations
    known = predict_memory(config, num_frames=8, weights=1000)
    assert few.total - known.total == few.weights - 1000


def test_a_model_of_any_size_needs_no_memory() -> None:
    """The paper's sizes: 7 billion parameters would not fit here."""
    from hf_videollm.costs.presets import find_preset

    predicted = predict_memory(find_preset("pllava").config(), dtype=torch.bfloat16)
    assert predicted.weights == pytest.approx(2 * 7_063_427_072, rel=0.001)
    # 16 frames of 3 x 336 x 336 values of 2 bytes.
    assert predicted.inputs == 16 * 3 * 336 * 336 * 2
    assert 14e9 < predicted.total < 20e9


def test_what_cannot_be_predicted_is_a_sentence() -> None:
    """Qwen2-VL cuts frames into patches itself, so their size is not in its configuration. LLaVA is the control."""
    assert predict_memory(make_linvt("llava_clip_llama").config).total > 0
    with pytest.raises(ValueError, match="size of the frames") as caught:
        predict_memory(make_linvt("qwen2_vl").config)
    assert "\n" not in str(caught.value)


# The counter


def test_views_count_once_and_freed_tensors_not_at_all() -> None:
    with LiveBytes("cpu") as counter:
        first = torch.zeros(1000)
        second = first[10:].view(-1)
        assert counter.now == 4000
        del first
        assert counter.now == 4000
        del second
        assert counter.now == 0
        torch.zeros(500)
        assert (counter.now, counter.peak) == (0, 4000)
        kept = torch.zeros(500) + torch.zeros(500)
        assert counter.now == kept.nbytes
    assert counter.peak == 6000


def test_weights_and_their_views_are_left_out_where_they_are_named() -> None:
    """A control: without its name, the view of a weight that a product makes counts as the whole weight."""
    layer, rows = torch.nn.Linear(100, 100, bias=False), torch.zeros(1, 100)
    for others, expected in (([layer.weight, rows], 400), ([rows], 400 + layer.weight.nbytes)):
        with torch.no_grad(), LiveBytes("cpu", others) as counter:
            layer(rows)
        assert counter.peak == expected
