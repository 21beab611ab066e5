"""The shared invariants for LinVT before LLaVA and Qwen2-VL, and what a conversation keeps while it goes on."""

from pathlib import Path
from typing import Any

import invariants
import numpy as np
import pytest
import torch
from factory import DesignCase, collate, with_other_media
from invariant_tests import InvariantTests
from linvt_design_case import LINVT_CASES
from linvt_processors import make_pair
from transformers import DynamicCache

LLAVA, QWEN = LINVT_CASES
ON_DISK = [
    {"model.backbone": "disk", "model.linvt": "cpu", "lm_head": "cpu"},
    {"model.backbone": "cpu", "model.linvt": "disk", "lm_head": "disk"},
]


class TestLinvt(InvariantTests):
    cases = LINVT_CASES

    # Where images stand, M-RoPE cannot count positions: the model asks for them instead.
    def test_position_ids(self, first_case: DesignCase) -> None:
        invariants.check_position_ids(first_case)

    def test_decoding_by_hand(self, first_case: DesignCase) -> None:
        invariants.check_decoding_by_hand(first_case)

    @pytest.mark.parametrize("device_map", ON_DISK, ids=["image_llm_on_disk", "linvt_on_disk"])
    def test_device_map_with_disk(self, case: DesignCase, device_map: dict[str, str], tmp_path: Path) -> None:
        invariants.check_device_map(case, tmp_path, device_map)

    def test_automatic_device_map_with_little_memory(self, case: DesignCase, tmp_path: Path) -> None:
        # LinVT, a third of the whole, is not split.
        invariants.check_device_map(case, tmp_path, "auto", max_memory={"cpu": 200_000})

    def test_gradient_reaches_what_is_trainable(self, case: DesignCase) -> None:
        """LinVT and the language model; towers of transformers also have weights that no image-LLM uses."""
        model = case.make_model()
        found = invariants.gradients(model, case.make_batch(invariants.MIXED))
        reached = {name for name, gradient in found.items() if gradient is not None and gradient.abs().max() > 0}
        missing = {name for name in set(found) - reached if ".linvt." in name or ".language_model." in name}
        # A shift of all keys cancels in the softmax.
        assert all(name.endswith("k_proj.bias") or ".key.bias" in name for name in missing), missing
        assert any("visual" in name or "vision_tower" in name for name in reached)

    @pytest.mark.slow
    def test_compiled_with_frame_counts(self, first_case: DesignCase) -> None:
        invariants.check_compile(first_case, "eager", fullgraph=False)

    # These are about parts that an image-LLM has in places of its own; tests of the model do the same for it
    # (`test_linvt_model.py`: chunks, checkpointing, selections instead of encoded media).
    test_chunked_encoding_equals_whole = None  # type: ignore[assignment]
    test_gradient_checkpointing = None  # type: ignore[assignment]
    test_eager_equals_sdpa = None  # type: ignore[assignment]
    test_beams_from_encoded_media = None  # type: ignore[assignment]
    test_encoded_media_equal_pixels = None  # type: ignore[assignment]
    test_compiled_as_one_graph_from_encoded_media = None  # type: ignore[assignment]
    test_every_language_model_compiled_from_encoded_media = None  # type: ignore[assignment]
    # Frame counts are data that LinVT cannot do without.
    test_compiled_as_one_graph = None  # type: ignore[assignment]
    test_compiled_by_inductor = None  # type: ignore[assignment]
    # LinVT finds the places of videos by ids.
    test_inputs_embeds_equal_ids = None  # type: ignore[assignment]


@pytest.mark.parametrize("case", LINVT_CASES, ids=lambda case: case.name)
def test_selections_equal_frames_in_beams(case: DesignCase) -> None:
    """Videos that were scored before, for rows with several of them, and as many beams."""
    model, rows = case.make_model(), case.make_rows(invariants.ROW_LAYOUTS["2-2-2"])
    batch = collate(rows, "left")
    frames = {name: batch.pop(name) for name in list(batch) if name.endswith("_videos") or name.startswith("num_video")}
    frames["video_frame_times"] = batch.pop("video_frame_times")
    with torch.no_grad():
        selections = model.select_videos(**frames)
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        found = invariants.step_logits(model, {**batch, "video_selections": selections}, **options)
        invariants.assert_same(found, invariants.step_logits(model, {**batch, **frames}, **options), "selections")
    other = collate(with_other_media(rows), "left")
    invariants.assert_moved(invariants.step_logits(model, other)[0], found[0, ::2], case, "other media")


# A conversation that goes on

CLIPS = [np.random.default_rng(seed).integers(0, 256, (4, 60, 70, 3), dtype=np.uint8) for seed in range(2)]


def conversation(*questions: str) -> list[dict[str, Any]]:
    """One video, a question, an answer, a question, ..."""
    video = {"type": "video", "video": CLIPS[0]}
    turns: list[dict[str, Any]] = []
    for number, question in enumerate(questions):
        text = {"type": "text", "text": question}
        turns.append({"role": "user", "content": [text] if number else [video, text]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": "Yes."}]})
    return turns[:-1]


def process(processor: Any, chat: Any, **kwargs: Any) -> Any:
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True, **kwargs}
    return processor.apply_chat_template(chat, **options)


TWO_TURNS = [("What?",), ("What?", "And why does it go there?")]


@pytest.mark.parametrize("name", ["llava_siglip_phi", "qwen2_vl", "internvl"])
@torch.no_grad()
def test_a_further_turn_leaves_what_was_before_as_it_was(name: str) -> None:
    """Inputs and embeddings of the first turn are a prefix of the second's, so that its cache stays right; with
    `recondition` the vectors of the video are made anew."""
    model, processor = make_pair(name)
    first, second = (process(processor, conversation(*questions)) for questions in TWO_TURNS)
    length = first["input_ids"].shape[1]
    for key in ("input_ids", "mm_token_type_ids"):
        assert torch.equal(second[key][:, :length], first[key])
    for key in set(first) - set(processor.PROMPT_KEYS):
        assert torch.equal(second[key], first[key]), key

    def embeds(batch: Any) -> torch.Tensor:
        media = {key: value for key, value in batch.items() if key not in processor.PROMPT_KEYS}
        return model.model.embed_prompt(batch["input_ids"], batch["mm_token_type_ids"], **media)["inputs_embeds"]

    assert torch.equal(embeds(second)[:, :length], embeds(first))
    anew = process(processor, conversation(*TWO_TURNS[1]), recondition=True)
    assert torch.equal(anew["input_ids"], second["input_ids"])
    moved = (embeds(anew) - embeds(second)).abs().amax((0, 2))
    is_video = anew["mm_token_type_ids"][0] == 2
    assert moved[is_video].min() > 1e-4
    assert moved[~is_video].max() == 0
    # The question that it is read for is then the only one that counts.
    alone = process(processor, conversation("And why does it go there?"))
    assert torch.equal(embeds(anew)[:, is_video], embeds(alone)[:, alone["mm_token_type_ids"][0] == 2])


@pytest.mark.parametrize("name", ["llava_siglip_phi", "qwen2_vl", "internvl"])
@torch.no_grad()
def test_a_conversation_goes_on_behind_its_cache(name: str) -> None:
    """`generate` for the second turn, behind the cache of the first, writes what it writes without a cache."""
    model, processor = make_pair(name)
    cache = DynamicCache(config=model.config.get_text_config())
    first, second = (process(processor, conversation(*questions)) for questions in TWO_TURNS)
    options = {"do_sample": False, "max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    model.generate(**first, past_key_values=cache, **options)
    # What was written is not what the conversation says was answered.
    cache.crop(first["input_ids"].shape[1] - cache.get_seq_length())
    calls: list[str] = []
    hook = model.model.linvt.svr.register_forward_hook(lambda *_: calls.append("scorer"))
    going_on = {key: value for key, value in second.items() if key in processor.PROMPT_KEYS}
    behind = model.generate(**going_on, past_key_values=cache, **options)
    hook.remove()
    assert calls == []
    whole = model.generate(**second, **options)
    assert torch.equal(behind.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(behind.logits), torch.stack(whole.logits), atol=2e-5, rtol=0)
    # With another question the same cache would be wrong, which is why the first one stays.
    anew = model.generate(**process(processor, conversation(*TWO_TURNS[1]), recondition=True), **options)
    assert (torch.stack(anew.logits) - torch.stack(whole.logits)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llava_siglip_phi", "qwen2_vl"])
@torch.no_grad()
def test_a_video_is_scored_once_for_many_questions(name: str) -> None:
    """With `recondition`, too: what does not depend on the question is done once."""
    model, processor = make_pair(name)
    first, second = (process(processor, conversation(*questions), recondition=True) for questions in TWO_TURNS)
    frames = {key: value for key, value in first.items() if key.endswith("_videos") or key == "num_video_frames"}
    selections = model.select_videos(**frames)
    calls: list[str] = []
    model.model.linvt.svr.register_forward_hook(lambda *_: calls.append("scorer"))
    answers = []
    for batch in (first, second):
        without = {key: value for key, value in batch.items() if key not in frames}
        answers.append(model(**without, video_selections=selections).logits)
    assert calls == []
    for batch, logits in zip((first, second), answers, strict=True):
        torch.testing.assert_close(model(**batch).logits, logits, atol=1e-5, rtol=0)
