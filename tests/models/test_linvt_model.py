"""LinVT around an image-LLM: questions, selections, weights, errors."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from tiny_image_llms import (
    CASES,
    IMAGE,
    MODULE,
    VIDEO,
    image_media,
    make_frames,
    make_image_llm,
    make_linvt,
    prompt,
    videos,
)
from transformers import GenerationConfig

from hf_videollm.models.configuration_linvt import LinVTConfig
from hf_videollm.models.errors import CheckpointError
from hf_videollm.models.modeling_linvt import LinVTForCausalLM, LinVTModel
from hf_videollm.models.modeling_video_llm import VideoLlmForConditionalGeneration, VideoLlmModel
from hf_videollm.models.transformers_compat import enable_checkpointing

NAME = "llava_siglip_phi"


def make_batch(model, name=NAME):
    clips = [make_frames(3), make_frames(2, seed=1), make_frames(4, seed=2)]
    return {**prompt(model, [[5, "v", 6, "v", 9], [3, "v", 8]]), **videos(name, clips)}


@torch.no_grad()
def test_the_vectors_are_those_of_the_module():
    model = make_linvt(NAME)
    batch, question = make_batch(model), torch.tensor([[7, 8], [7, 8], [9, 6]])
    found = model.get_video_features(
        batch["num_video_frames"],
        question_input_ids=question,
        pixel_values_videos=batch["pixel_values_videos"],
        return_dict=True,
    ).pooler_output
    assert [tuple(part.shape) for part in found] == [(7, 32)] * 3
    tokens = model.model.backbone.get_image_features(batch["pixel_values_videos"], return_dict=True).pooler_output
    frames = torch.stack(list(tokens)[5:])
    expected, linear_map = model.model.linvt(
        frames[None], text_embeddings=model.get_input_embeddings()(question[2:]), return_map=True
    )
    torch.testing.assert_close(found[2], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], (linear_map @ frames.flatten(0, 1))[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_question_reaches_the_aggregator():
    model = make_linvt(NAME)
    batch = make_batch(model)
    question = {"question_input_ids": torch.tensor([[7, 8], [9, 6]])}
    without, with_question = model(**batch).logits, model(**batch, **question).logits
    assert (without - with_question).abs().max() > 1e-3
    padded = {
        "question_input_ids": torch.tensor([[7, 8, 50], [9, 6, 51]]),
        "question_attention_mask": torch.tensor([[1, 1, 0], [1, 1, 0]]),
    }
    torch.testing.assert_close(model(**batch, **padded).logits, with_question, atol=1e-5, rtol=0)
    # The second row's question is none of the first row's.
    other = {"question_input_ids": torch.tensor([[7, 8], [40, 41]])}
    moved = model(**batch, **other).logits
    torch.testing.assert_close(moved[0], with_question[0], atol=1e-6, rtol=0)
    assert (moved[1] - with_question[1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_video_is_scored_once_for_many_questions():
    model = make_linvt(NAME)
    batch = make_batch(model)
    media = {name: batch.pop(name) for name in ("pixel_values_videos", "num_video_frames")}
    selections = model.select_videos(**media)
    calls = []
    model.model.linvt.svr.register_forward_hook(lambda *_: calls.append("scorer"))
    model.model.backbone.vision_tower.register_forward_hook(lambda *_: calls.append("tower"))
    found = []
    for ids in ([[7, 8], [9, 6]], [[4, 4], [3, 2]]):
        question = {"question_input_ids": torch.tensor(ids)}
        found.append(model(**batch, video_selections=selections, **question).logits)
        model.generate(**batch, video_selections=selections, **question, max_new_tokens=2)
    assert calls == []
    expected = model(**batch, **media, question_input_ids=torch.tensor([[4, 4], [3, 2]])).logits
    assert calls
    assert torch.equal(found[1], expected)
    assert not torch.allclose(found[0], expected, atol=1e-3)


def test_gradients_reach_scorer_queries_and_aggregator():
    model = make_linvt(NAME).train()
    model.requires_grad_(False)
    model.model.linvt.requires_grad_(True)
    batch = make_batch(model)
    labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] > 0, -100)
    loss = model(**batch, labels=labels, question_input_ids=torch.tensor([[7, 8], [9, 6]])).loss
    loss.backward()
    linvt = model.model.linvt
    for parameter in (linvt.svr.score.weight, linvt.tta.queries, *linvt.tta.aggregator.parameters()):
        assert parameter.grad.isfinite().all()
    assert linvt.svr.score.weight.grad.abs().sum() > 0
    assert linvt.tta.queries.grad.abs().sum() > 0
    assert all(p.grad is None for n, p in model.named_parameters() if ".linvt." not in n)


@pytest.mark.parametrize("name", [NAME, "qwen2_vl", "internvl"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(name, use_reentrant):
    gradients = []
    for is_checkpointed in (False, True):
        model = make_linvt(name).train()
        model.requires_grad_(False)
        model.model.linvt.requires_grad_(True)
        if is_checkpointed:
            enable_checkpointing(model, {"use_reentrant": use_reentrant})
        batch = make_batch(model, name)
        labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] > 0, -100)
        model(**batch, labels=labels, question_input_ids=torch.tensor([[7, 8], [9, 6]])).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_video_of_one_frame(name):
    model = make_linvt(name)
    text = prompt(model, [[5, "v", 6]])
    first, second = (model(**text, **videos(name, [make_frames(1, seed=seed)])).logits for seed in (0, 1))
    assert first.isfinite().all()
    assert (first - second).abs().max() > 1e-2


def test_loss_is_that_of_the_logits():
    model = make_linvt(NAME)
    batch = make_batch(model)
    labels = batch["input_ids"].masked_fill((batch["mm_token_type_ids"] > 0) | (batch["attention_mask"] == 0), -100)
    outputs = model(**batch, labels=labels)
    shifted = outputs.logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(shifted, labels[:, 1:].flatten())
    torch.testing.assert_close(outputs.loss, expected)
    summed = model(**batch, labels=labels, num_items_in_batch=torch.tensor(100)).loss
    torch.testing.assert_close(summed * 100, expected * (labels[:, 1:] != -100).sum())
    kept = model(**batch, logits_to_keep=1).logits
    torch.testing.assert_close(kept, outputs.logits[:, -1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_from_image_llm_and_reload(name, tmp_path):
    image_llm = make_image_llm(name)
    before = copy.deepcopy(image_llm.state_dict())
    image_llm.save_pretrained(tmp_path / "image")
    model = LinVTForCausalLM.from_image_llm(tmp_path / "image", linvt_config=MODULE)
    kept = {key.replace("model.backbone.", "model."): value for key, value in model.state_dict().items()}
    assert all(torch.equal(kept[key], value) for key, value in before.items())
    assert all(value.isfinite().all() and not value.is_meta for value in model.state_dict().values())
    batch = make_batch(model, name)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path / "video")
    loaded = LinVTForCausalLM.from_pretrained(tmp_path / "video")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    # Not bitwise: weights that lie elsewhere in memory are multiplied in another order.
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=0)
    fields = ("image_token_id", "video_token_id", "num_frames", "tie_word_embeddings")
    assert [getattr(loaded.config, field) for field in fields] == [getattr(model.config, field) for field in fields]
    assert type(loaded.config.backbone_config) is type(image_llm.config)
    assert loaded.config.linvt_config.num_queries == MODULE["num_queries"]
    # Text answers are still those of the image-LLM.
    text = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    torch.testing.assert_close(loaded(**text).logits, image_llm(**text).logits, atol=1e-5, rtol=0)
    headless = LinVTModel.from_pretrained(tmp_path / "video")
    states = headless(**batch).last_hidden_state
    torch.testing.assert_close(loaded.lm_head(states), expected, atol=1e-5, rtol=0)
    with pytest.raises(TypeError, match="has no language-model head"):
        headless.generate()


@torch.no_grad()
def test_a_tied_head_stays_tied(tmp_path):
    image_llm = make_image_llm("internvl")
    image_llm.config.tie_word_embeddings = True
    image_llm.tie_weights()
    image_llm.save_pretrained(tmp_path / "image")
    model = LinVTForCausalLM.from_image_llm(tmp_path / "image", linvt_config=MODULE)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "video")
    loaded = LinVTForCausalLM.from_pretrained(tmp_path / "video")
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    batch = make_batch(model, "internvl")
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    make_image_llm(NAME).save_pretrained(tmp_path)
    model = make_linvt(NAME)
    del model.model.linvt.svr.score
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(CheckpointError, match="missing"):
        LinVTForCausalLM.from_pretrained(tmp_path / "broken")


@pytest.mark.parametrize("name", [NAME, "qwen2_vl"])
@torch.no_grad()
def test_an_adapter_alone(name, tmp_path):
    make_image_llm(name).save_pretrained(tmp_path / "image")
    model = LinVTForCausalLM.from_image_llm(tmp_path / "image", linvt_config=MODULE)
    model.save_pretrained(tmp_path / "adapter", adapter_only=True)
    written = load_file(tmp_path / "adapter" / "model.safetensors")
    assert sum(map(torch.numel, written.values())) == sum(p.numel() for p in model.model.linvt.parameters())
    assert model.config.backbone_name == str(tmp_path / "image")
    loaded = LinVTForCausalLM.from_adapter(tmp_path / "adapter")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    batch = make_batch(model, name)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)
    # As a whole model it is refused, and so is a whole model as an adapter.
    for whole in (LinVTForCausalLM, LinVTModel):
        with pytest.raises(CheckpointError, match="is a LinVT adapter, without its image-LLM: load it with"):
            whole.from_pretrained(tmp_path / "adapter")
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="is not a LinVT adapter, or is one for another image-LLM than"):
        LinVTForCausalLM.from_adapter(tmp_path / "whole")
    (tmp_path / "image").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"belongs to the image-LLM .*image, which .*: pass image_llm= with"):
        LinVTForCausalLM.from_adapter(tmp_path / "adapter")
    moved = LinVTForCausalLM.from_adapter(tmp_path / "adapter", image_llm=tmp_path / "moved")
    assert all(torch.equal(value, moved.state_dict()[key]) for key, value in model.state_dict().items())


def test_an_adapter_without_a_name_of_its_image_llm(tmp_path):
    model = make_linvt(NAME)
    with pytest.raises(ValueError, match=r"An adapter must name its image-LLM: set config\.backbone_name"):
        model.save_pretrained(tmp_path, adapter_only=True)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not say which image-LLM it belongs to: pass image_llm"):
        LinVTForCausalLM.from_adapter(tmp_path)


@torch.no_grad()
def test_bfloat16(tmp_path):
    make_image_llm(NAME).save_pretrained(tmp_path)
    model = LinVTForCausalLM.from_image_llm(tmp_path, linvt_config=MODULE, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = make_batch(model)
    batch["pixel_values_videos"] = batch["pixel_values_videos"].bfloat16()
    assert model(**batch).logits.isfinite().all()
    assert model.generate(**batch, max_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2


def test_config_takes_the_placeholders_of_the_backbone():
    config = LinVTConfig(backbone_config=make_image_llm("qwen2_vl").config)
    assert (config.image_token_id, config.video_token_id, config.num_video_tokens(64)) == (IMAGE, VIDEO, 112)
    shared = LinVTConfig(backbone_config=make_image_llm(NAME).config)
    assert shared.video_token_id == shared.image_token_id == IMAGE
    assert LinVTConfig(**shared.to_dict()).to_dict() == shared.to_dict()
    assert shared.get_text_config().num_hidden_layers == 2
    with pytest.raises(StrictDataclassClassValidationError, match="num_frames must be at least 1"):
        LinVTConfig(num_frames=0)
    with pytest.raises(StrictDataclassClassValidationError, match="names no placeholder of images"):
        LinVTConfig(backbone_config={"model_type": "llama"})


@pytest.mark.parametrize("call", ["forward", "generate"])
@torch.no_grad()
def test_media_that_do_not_fit_are_refused(call):
    model = make_linvt(NAME)
    batch = make_batch(model)
    run = model.generate if call == "generate" else model

    def without(*names):
        return {name: value for name, value in batch.items() if name not in names}

    with pytest.raises(ValueError, match="placeholders of 3 videos, but 0 came with them"):
        run(**without("num_video_frames"))
    with pytest.raises(ValueError, match=r"num_video_frames \[3, 2, 4\] without frames: pass pixel_values_videos"):
        run(**without("pixel_values_videos"))
    with pytest.raises(ValueError, match="gave 9 results for 10 frames"):
        run(**{**batch, "num_video_frames": torch.tensor([3, 3, 4])})
    with pytest.raises(ValueError, match="placeholders of 3 videos, but 2 came with them"):
        run(**{**batch, "num_video_frames": torch.tensor([3, 6])})
    with pytest.raises(ValueError, match="placeholders of 0 videos, but 3 came"):
        run(**without("mm_token_type_ids"))
    with pytest.raises(ValueError, match="question_input_ids has 3 rows for 2 prompts"):
        run(**batch, question_input_ids=torch.tensor([[7], [8], [9]]))
    cut = {name: batch[name][:, 3:] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    with pytest.raises(ValueError, match="a video has 7: make the prompts again"):
        run(**{**batch, **cut})
    if call == "generate":
        with pytest.raises(ValueError, match="placeholders of 3 videos, but no frames came"):
            run(**without("pixel_values_videos", "num_video_frames"))


@torch.no_grad()
def test_counts_of_frames_may_be_a_list():
    model = make_linvt(NAME)
    batch = make_batch(model)
    as_list = {**batch, "num_video_frames": batch["num_video_frames"].tolist()}
    assert torch.equal(model(**as_list).logits, model(**batch).logits)
    assert torch.equal(model.generate(**as_list, max_new_tokens=2), model.generate(**batch, max_new_tokens=2))


def test_frames_or_selections():
    model = make_linvt(NAME)
    media = videos(NAME, [make_frames(2)])
    with pytest.raises(ValueError, match="either the frames of videos with num_video_frames, or video_selections"):
        model.get_video_features(pixel_values_videos=media["pixel_values_videos"])
    with pytest.raises(ValueError, match="either the frames of videos with num_video_frames, or video_selections"):
        model.get_video_features(**media, video_selections=model.select_videos(**media))
    with pytest.raises(ValueError, match="2 questions for 1 videos"):
        model.get_video_features(**media, question_input_ids=torch.tensor([[5], [6]]))


@pytest.mark.parametrize("is_training", [True, False])
def test_prompts_without_the_frames_are_refused(is_training):
    model = make_linvt(NAME).train(is_training)
    with pytest.raises(ValueError, match="but no frames came with them"):
        model(**prompt(model, [[5, "v", 6]]))
    assert model(**prompt(model, [[5, 6]])).logits.isfinite().all()


@pytest.mark.parametrize("is_configured", [True, False])
def test_assisted_decoding_is_refused(is_configured):
    model = make_linvt(NAME)
    text = {**prompt(model, [[5, 6, 7, 5, 6]]), "max_new_tokens": 2, "do_sample": False}
    expected = model.generate(**text)
    options = {"prompt_lookup_num_tokens": 2}
    if is_configured:
        options = {"generation_config": GenerationConfig(**options)}
    with pytest.raises(ValueError, match=r"assisted decoding gives wrong tokens: leave out prompt_lookup_num_tokens"):
        model.generate(**text, **options)
    with pytest.raises(ValueError, match="leave out assistant_model"):
        model.generate(**text, assistant_model=make_image_llm(NAME))
    assert torch.equal(model.generate(**text, prompt_lookup_num_tokens=None), expected)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "glm4v"])
@torch.no_grad()
def test_earlier_images_leave_nothing_behind(name):
    """M-RoPE families remember the shift of the last prompt's images, row by row."""
    model = make_linvt(name)
    clip = {**prompt(model, [[5, "v", 6]]), **videos(name, [make_frames(3)])}
    embeds = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))

    def run():
        words = model(inputs_embeds=embeds)
        generated = model.generate(**clip, max_new_tokens=3, do_sample=False)
        return words.logits, model(**clip).logits, generated

    fresh = run()
    media, lengths = image_media(name, model.model.backbone, make_frames(2))
    model(**prompt(model, [[5, ("i", lengths[0]), 7], [3, ("i", lengths[1]), 4, 8]]), **media)
    for found, expected in zip(run(), fresh, strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_positions_behind_a_cache():
    """A forward by hand: counted where that is possible, asked for where it is not."""
    model = make_linvt(NAME)
    batch = make_batch(model)
    token, mask = torch.tensor([[5], [6]]), torch.cat([batch["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    cache = model(**batch, use_cache=True).cache
    found = model(input_ids=token, attention_mask=mask, past_key_values=cache).logits[:, -1]
    more = {"input_ids": torch.cat([batch["input_ids"], token], 1), "attention_mask": mask}
    more["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(token)], 1)
    torch.testing.assert_close(found, model(**{**batch, **more}).logits[:, -1], atol=2e-5, rtol=0)
    spatial = make_linvt("qwen2_vl")
    batch = make_batch(spatial, "qwen2_vl")
    cache = spatial(**batch, use_cache=True).cache
    with pytest.raises(ValueError, match="Qwen2VLModel cannot know the positions of tokens after a cache"):
        spatial(input_ids=token, attention_mask=mask, past_key_values=cache)


def test_head_and_merging_are_those_of_the_other_designs() -> None:
    shared = {LinVTForCausalLM: ("head_outputs", "make_head"), LinVTModel: ("merge_features", "generate")}
    others = {LinVTForCausalLM: VideoLlmForConditionalGeneration, LinVTModel: VideoLlmModel}
    for own, names in shared.items():
        assert [getattr(own, name) for name in names] == [getattr(others[own], name) for name in names]
    assert LinVTModel.forward is not VideoLlmModel.forward, "the comparison must tell methods apart"
