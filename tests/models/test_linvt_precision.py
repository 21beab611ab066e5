"""LinVT around an image-LLM in training and in low precision; prompts without any media."""

import pytest
import torch
from tiny_image_llms import CASES, MODULE, image_media, make_frames, make_image_llm, make_linvt, prompt, videos

from hf_videollm.models.modeling_linvt import LinVTForCausalLM
from hf_videollm.models.transformers_compat import enable_checkpointing

# One for every way in which families differ: plain, M-RoPE, deepstack, token types, added features.
DIFFERENT = ["llava_siglip_phi", "qwen2_vl", "qwen3_vl", "gemma3", "paligemma", "molmo2"]
QUESTION = {"question_input_ids": torch.tensor([[7, 8], [9, 6]])}


def training_batch(model, name):
    clips = [make_frames(3), make_frames(2, seed=1), make_frames(4, seed=2)]
    batch = {**prompt(model, [[5, "v", 6, "v", 9], [3, "v", 8]]), **videos(name, clips)}
    answers = (batch["mm_token_type_ids"] == 0) & (batch["attention_mask"] == 1)
    answers[:, :-2] = False
    if "token_type_ids" in batch:
        batch["token_type_ids"] = answers.long() if name == "paligemma" else batch["token_type_ids"]
    return {**batch, **QUESTION, "labels": batch["input_ids"].masked_fill(~answers, -100)}


def linvt_gradients(name, **checkpointing):
    model = make_linvt(name).train()
    model.requires_grad_(False)
    model.model.linvt.requires_grad_(True)
    if checkpointing:
        enable_checkpointing(model, checkpointing)
    model(**training_batch(model, name)).loss.backward()
    assert all(p.grad is None for key, p in model.named_parameters() if ".linvt." not in key)
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_scorer_queries_and_aggregation_through_the_whole_model(name):
    found = {key.removeprefix("model.linvt."): value for key, value in linvt_gradients(name).items()}
    for key in ("svr.score.weight", "svr.layers.0.spatial_attn.q_proj.weight", "tta.queries"):
        assert found[key].isfinite().all()
        assert found[key].abs().max() > 0, key
    for part in ("q_proj", "k_proj"):
        assert found[f"tta.aggregator.{part}.weight"].abs().max() > 0


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_gradient(name, use_reentrant):
    expected, found = linvt_gradients(name), linvt_gradients(name, use_reentrant=use_reentrant)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", DIFFERENT)
@torch.no_grad()
def test_bfloat16_takes_what_the_processor_gives(name, tmp_path):
    make_image_llm(name).save_pretrained(tmp_path)
    model = LinVTForCausalLM.from_image_llm(tmp_path, linvt_config=MODULE, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = training_batch(model, name)
    assert batch["pixel_values_videos"].dtype == torch.float32
    outputs = model(**batch)
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.isfinite()
    whole = model.float()(**batch)
    # Eight bits of mantissa, and choices of tokens that may differ.
    assert (outputs.logits.float() - whole.logits).abs().mean() < 0.1 * whole.logits.abs().mean()
    del batch["labels"]
    written = model.bfloat16().generate(**batch, max_new_tokens=2, do_sample=False)
    assert written.shape[1] == batch["input_ids"].shape[1] + 2


@pytest.mark.parametrize("name", DIFFERENT)
def test_autocast_trains(name):
    model = make_linvt(name).train()
    model.requires_grad_(False)
    model.model.linvt.requires_grad_(True)
    batch = training_batch(model, name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    exact = make_linvt(name).train()(**batch).loss
    torch.testing.assert_close(loss.float(), exact, atol=0.05, rtol=0.05)
    loss.backward()
    queries, score = model.model.linvt.tta.queries, model.model.linvt.svr.score.weight
    for parameter in (queries, score):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_prompts_without_media_are_the_image_llms_own(name):
    image_llm, model = make_image_llm(name), make_linvt(name)
    batch = prompt(model, [[5, 6, 7, 8], [3, 4]])
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    # What a collator gives where a batch happens to have no video.
    nothing = {"pixel_values_videos": None, "num_video_frames": None, **QUESTION}
    expected = image_llm(**text).logits
    assert torch.equal(model(**text, **nothing).logits, expected)
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    found = model.generate(**text, **nothing, **options)
    own = image_llm.generate(**text, **options)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(own.logits), atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_without_media_among_others():
    """Text, an image and a video, each as it is alone."""
    name = "qwen3_vl"
    model = make_linvt(name)
    media, lengths = image_media(name, model.model.backbone, make_frames(1, seed=3))
    clip = videos(name, [make_frames(2)])
    rows = [[5, 6, 7], [3, ("i", lengths[0]), 4], [8, "v", 9]]
    together = model(**prompt(model, rows), **media, **clip).logits
    for row, own, index in zip(rows, ({}, media, clip), range(3), strict=True):
        alone = model(**prompt(model, [row]), **own).logits[0]
        torch.testing.assert_close(together[index, -len(alone) :], alone, atol=2e-5, rtol=0)
