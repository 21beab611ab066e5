"""LinVT before image-LLMs that differ from the others: what their masks and deeper layers want, and going on."""

import pytest
import torch
from tiny_image_llms import (
    CASES,
    IMAGE,
    VIDEO,
    extend,
    image_media,
    make_frames,
    make_image_llm,
    make_linvt,
    make_processor,
    prompt,
    videos,
)
from transformers import StaticCache

from hf_videollm.models.linvt_backbones import Backbone
from hf_videollm.models.linvt_families import TYPE_RULES
from hf_videollm.models.linvt_frames import frame_inputs, split_frames
from hf_videollm.models.linvt_module import join_selections

FAMILIES = pytest.mark.parametrize("name", CASES)
DEEPSTACK = pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe"])
SCORES = {"output_logits": True, "return_dict_in_generate": True, "suppress_tokens": [IMAGE, VIDEO], "do_sample": False}


def mixed_batch(model, name):
    """A row with a video, and one with two images and a video."""
    media, lengths = image_media(name, model.model.backbone, make_frames(2, seed=3))
    images = [("i", lengths[0]), 4, ("i", lengths[1])]
    batch = prompt(model, [[5, "v", 6, 9], [3, *images, 4, 5, "v", 8]])
    return {**batch, **media, **videos(name, [make_frames(3), make_frames(2, seed=1)])}


@pytest.mark.parametrize("name", ["llava_siglip_phi", "qwen3_vl", "paligemma"])
@torch.no_grad()
def test_generation_that_should_not_cache_is_right_all_the_same(name):
    """transformers caches whatever follows embeddings."""
    model = make_linvt(name)
    batch = mixed_batch(model, name)
    expected = model.generate(**batch, max_new_tokens=4, **SCORES)
    found = model.generate(**batch, max_new_tokens=4, use_cache=False, **SCORES)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=2e-5, rtol=0)


@FAMILIES
@torch.no_grad()
def test_a_second_question_goes_on_behind_the_cache(name):
    """The first question stays the one that LinVT knows; media are not run again."""
    model = make_linvt(name)
    batch = mixed_batch(model, name)
    asked = {"question_input_ids": torch.tensor([[7, 8], [9, 6]])}
    first = model.generate(**batch, **asked, max_new_tokens=3, **SCORES)
    added = torch.cat(
        [first.sequences[:, batch["input_ids"].shape[1] :], torch.tensor([[11, 12, 13], [21, 22, 23]])], 1
    )
    whole = extend(model, batch, added)
    expected = torch.stack(model.generate(**whole, **asked, max_new_tokens=3, **SCORES).logits)
    kept = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "image_grid_thw"}
    text = {key: value for key, value in whole.items() if key in kept}
    # As the image-LLM remembers it of another prompt: nothing may be read from there.
    if hasattr(model.model.backbone, "rope_deltas"):
        model.model.backbone.rope_deltas = torch.full((2, 1), 77)
    found = model.generate(**text, past_key_values=first.cache, max_new_tokens=3, **SCORES)
    torch.testing.assert_close(torch.stack(found.logits), expected, atol=5e-5, rtol=0)
    other = {**whole, "question_input_ids": torch.tensor([[30, 31], [32, 33]])}
    moved = torch.stack(model.generate(**other, max_new_tokens=3, **SCORES).logits)
    assert (moved - expected).abs().max() > 1e-3, "the first question must count"


@pytest.mark.parametrize("name", ["llava_siglip_phi", "qwen2_vl", "qwen3_vl", "gemma3"])
@torch.no_grad()
def test_a_new_video_behind_the_cache(name):
    model = make_linvt(name)
    first, second = make_frames(3), make_frames(2, seed=1)
    start = {**prompt(model, [[5, "v", 6, 9]]), **videos(name, [first])}
    cache = model(**start, use_cache=True).cache
    whole = prompt(model, [[5, "v", 6, 9, 7, "v", 4]])
    expected = model.generate(**whole, **videos(name, [first, second]), max_new_tokens=3, **SCORES).logits
    found = model.generate(**whole, **videos(name, [second]), past_key_values=cache, max_new_tokens=3, **SCORES).logits
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match=r"placeholders of 1 videos, but 2 came .*pass only the new videos"):
        model.generate(**whole, **videos(name, [first, second]), past_key_values=model(**start).cache)
    with pytest.raises(ValueError, match="in past_key_values: pass the whole conversation"):
        model.generate(**start, past_key_values=model(**start).cache)
    fixed = StaticCache(config=model.config.get_text_config(), max_cache_len=40)
    options = {"past_key_values": fixed, "disable_compile": True}
    model.generate(**start, **options, max_new_tokens=1, do_sample=False)
    found = model.generate(**whole, **videos(name, [second]), **options, max_new_tokens=3, **SCORES).logits
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["video", "image"])
@torch.no_grad()
def test_molmo2_takes_no_new_media_behind_the_cache(kind):
    """Earlier images would have to look at them."""
    name = "molmo2"
    model = make_linvt(name)
    start = {**prompt(model, [[5, "v", 6, 9]]), **videos(name, [make_frames(3)])}
    media, lengths = image_media(name, model.model.backbone, make_frames(1, seed=3))
    part, inputs = ("v", videos(name, [make_frames(2)])) if kind == "video" else (("i", lengths[0]), media)
    whole = prompt(model, [[5, "v", 6, 9, 7, part, 4]])
    with pytest.raises(ValueError, match="Molmo2Model lets all images and videos of a prompt attend to each other"):
        model.generate(**whole, **inputs, past_key_values=model(**start).cache)
    tail = {key: whole[key][:, 10:] for key in ("input_ids", "mm_token_type_ids")}
    with pytest.raises(ValueError, match="Molmo2Model lets all images and videos of a prompt attend to each other"):
        model(**tail, attention_mask=whole["attention_mask"], **inputs, past_key_values=model(**start).cache)


@torch.no_grad()
def test_images_behind_a_cache_need_the_grids_of_all():
    """Positions of M-RoPE depend on the sizes of earlier images, which are not run again."""
    name = "qwen2_vl"
    model = make_linvt(name)
    media, lengths = image_media(name, model.model.backbone, [make_frames(1)[0], make_frames(1, seed=2)[0][:28]])
    assert lengths == [4, 2]
    whole = prompt(model, [[5, ("i", 4), 6, "v", 7, ("i", 2), 8]])
    clip = videos(name, [make_frames(2)])
    expected = model.generate(**whole, **media, **clip, max_new_tokens=3, **SCORES).logits
    grids = media["image_grid_thw"]
    patches = grids.prod(-1).tolist()
    start = prompt(model, [[5, ("i", 4), 6, "v"]])
    old = {"pixel_values": media["pixel_values"][: patches[0]], "image_grid_thw": grids[:1]}
    cache = model(**start, **old, **clip, use_cache=True).cache
    new = {"pixel_values": media["pixel_values"][patches[0] :], "image_grid_thw": grids}
    found = model.generate(**whole, **new, past_key_values=cache, max_new_tokens=3, **SCORES).logits
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=2e-5, rtol=0)


@FAMILIES
@torch.no_grad()
def test_frames_a_few_at_a_time_equal_all_at_once(name):
    model = make_linvt(name)
    base = model.model.backbone
    inputs = videos(name, [make_frames(3), make_frames(1, seed=1), make_frames(2, seed=2)])
    counts = inputs.pop("num_video_frames").tolist()
    media = {key.removesuffix("_videos"): value for key, value in inputs.items()}
    whole = Backbone(base).encode_frames(media, counts)
    # One product over the patches of all images: float32 rounds otherwise with another number of them.
    tolerance = {"atol": 1e-4 if name == "lfm2_vl" else 1e-5, "rtol": 1e-5}
    for size in (1, 2, 4):
        chunks = split_frames(media, counts, size)
        assert len(chunks) >= sum(counts) // size
        found = Backbone(base).encode_frames(media, counts, size)
        for part in ("tokens", "deepstack"):
            for chunked, expected in zip(getattr(found, part) or [], getattr(whole, part) or [], strict=True):
                torch.testing.assert_close(chunked, expected, **tolerance)
    calls = []
    tower = next(module for key, module in base.named_modules() if key in ("vision_tower", "visual", "vision_model"))
    tower.register_forward_hook(lambda *_: calls.append(1))
    model.config.vision_chunk_size = 2
    model.select_videos(num_video_frames=torch.tensor(counts), **inputs)
    assert len(calls) >= 3


@torch.no_grad()
def test_inputs_that_cannot_be_split_are_run_as_they_are():
    media = {"pixel_values": torch.zeros(7, 3)}
    assert [chunk["pixel_values"].shape[0] for chunk in split_frames(media, [3, 2], 2)] == [7]
    assert [chunk["pixel_values"].shape[0] for chunk in split_frames(media, [3, 4], 2)] == [2, 2, 2, 1]


@torch.no_grad()
def test_videos_together_equal_videos_alone():
    """Of different length, as one padded batch, with a question each."""
    model = make_linvt("llava_siglip_phi")
    clips = [make_frames(3), make_frames(1, seed=1), make_frames(5, seed=2)]
    questions, mask = torch.tensor([[7, 8, 3], [4, 0, 0], [0, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    calls = []
    model.model.linvt.svr.register_forward_hook(lambda *_: calls.append("select"))
    model.model.linvt.tta.register_forward_hook(lambda *_: calls.append("aggregate"))
    asked = {"question_input_ids": questions, "question_attention_mask": mask}
    together = model.get_video_features(**videos("llava_siglip_phi", clips), **asked, return_dict=True).pooler_output
    assert calls == ["select", "aggregate"]
    for number, clip in enumerate(clips):
        own = {key: value[number : number + 1] for key, value in asked.items()}
        alone = model.get_video_features(**videos("llava_siglip_phi", [clip]), **own, return_dict=True).pooler_output
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=0)
    selections = model.select_videos(**videos("llava_siglip_phi", clips))
    shapes = [(tuple(part.tokens.shape[:2]), tuple(part.scores.shape)) for part in selections]
    assert shapes == [((1, 12), (1, 3, 16)), ((1, 12), (1, 1, 16)), ((1, 12), (1, 5, 16))]
    joined = join_selections(selections)
    assert torch.equal(joined.scores.isinf().any(2).sum(1), torch.tensor([2, 4, 0]))


@torch.no_grad()
def test_videos_of_different_sizes_together():
    """Frames with other numbers of tokens: two batches, and the order of the videos stays."""
    name = "qwen2_vl"
    model = make_linvt(name)
    clips = [make_frames(2), [frame[:28] for frame in make_frames(3, seed=1)], make_frames(1, seed=2)]
    together = model.get_video_features(**videos(name, clips), return_dict=True).pooler_output
    for number, clip in enumerate(clips):
        alone = model.get_video_features(**videos(name, [clip]), return_dict=True).pooler_output
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_times_of_frames_reach_the_time_code():
    name = "llava_siglip_phi"
    model = make_linvt(name)
    batch = {**prompt(model, [[5, "v", 6], [3, "v", 4]]), **videos(name, [make_frames(3), make_frames(2, seed=1)])}
    counted = model(**batch).logits
    numbers = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 50.0]])
    torch.testing.assert_close(model(**batch, video_frame_times=numbers).logits, counted, atol=1e-6, rtol=0)
    seconds = torch.tensor([[0.0, 4.0, 9.0], [0.0, 1.0, 0.0]])
    found = model(**batch, video_frame_times=seconds).logits
    assert (found[0] - counted[0]).abs().max() > 1e-3
    torch.testing.assert_close(found[1], counted[1], atol=1e-6, rtol=0)
    generated = model.generate(**batch, video_frame_times=seconds, max_new_tokens=1, **SCORES).logits[0]
    torch.testing.assert_close(generated, found[:, -1], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"video_frame_times of shape \(2, 2\) does not fit num_video_frames \[3, 2\]"):
        model(**batch, video_frame_times=seconds[:, :2])


def identity_of(model, count):
    """Make LinVT hand on the tokens of a video of one frame as they are."""

    def aggregate(selection, text_embeddings, text_mask, return_map):
        identity = torch.eye(count).unsqueeze(0)
        return (selection.tokens, identity) if return_map else selection.tokens

    model.model.linvt.aggregate = aggregate


@DEEPSTACK
@torch.no_grad()
def test_deepstack_mixed_by_the_identity_is_that_of_an_image(name):
    """With M = I a video is an image: the language model must then say what it says to the image."""
    # Seven tokens, as many as a video has slots; in one row, so that positions can be alike.
    frame = [make_frames(1)[0]]
    tall = [frame[0].repeat(8, axis=0)[:196, :28]]
    differences = {}
    for is_mixed in (True, False):
        model = make_linvt(name, num_selected_tokens=7)
        model.config.mix_deepstack = is_mixed
        identity_of(model, 7)
        processor = make_processor(name)
        processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 196}
        inputs = frame_inputs(processor, name, [tall])
        media = {"pixel_values": inputs["pixel_values_videos"], "image_grid_thw": inputs["image_grid_thw_videos"]}
        assert len(Backbone(model.model.backbone).encode_images(media).tokens[0]) == 7
        as_image, as_video = prompt(model, [[5, ("i", 7), 6, 9]]), prompt(model, [[5, "v", 6, 9]])
        places = model.model.prompt_positions(as_image["input_ids"], None, as_image["mm_token_type_ids"], media)
        expected = model(**as_image, **media, position_ids=places).logits
        found = model(**as_video, **inputs, position_ids=places).logits
        differences[is_mixed] = (found - expected).abs().max().item()
    assert differences[True] < 1e-5
    assert differences[False] > 1e-2, "deeper layers must count"


@DEEPSTACK
@torch.no_grad()
def test_deepstack_is_mixed_by_the_map_of_the_tokens(name):
    model = make_linvt(name)
    assert Backbone(model.model.backbone).has_deepstack
    clips = [make_frames(3), make_frames(2, seed=1)]
    inputs, question = videos(name, clips), torch.tensor([[7, 8], [9, 6]])
    output = model.get_video_features(**inputs, question_input_ids=question, return_dict=True)
    counts = inputs.pop("num_video_frames").tolist()
    media = {key.removesuffix("_videos"): value for key, value in inputs.items()}
    features = Backbone(model.model.backbone).encode_frames(media, counts)
    words = model.get_input_embeddings()(question)
    for number, (tokens, levels) in enumerate(zip(features.tokens, features.deepstack, strict=True)):
        mixed, linear_map = model.model.linvt(tokens[None], text_embeddings=words[number : number + 1], return_map=True)
        torch.testing.assert_close(output.pooler_output[number], mixed[0], atol=1e-5, rtol=0)
        expected = torch.einsum("nk,kld->nld", linear_map[0], levels.flatten(0, 1))
        assert expected.shape == (7, 2, 32)
        torch.testing.assert_close(output.deepstack_features[number], expected, atol=1e-5, rtol=0)
    # What is reused for further questions holds them, too.
    selections = model.select_videos(torch.tensor(counts), **inputs)
    again = model.get_video_features(video_selections=selections, question_input_ids=question, return_dict=True)
    torch.testing.assert_close(again.deepstack_features[1], output.deepstack_features[1], atol=1e-6, rtol=0)


@DEEPSTACK
@torch.no_grad()
def test_deepstack_can_be_left_out(name, tmp_path):
    model = make_linvt(name)
    batch = mixed_batch(model, name)
    mixed = model(**batch).logits
    model.config.mix_deepstack = False
    without = model(**batch).logits
    assert (mixed - without).abs().max() > 1e-3
    output = model.get_video_features(**videos(name, [make_frames(2)]), return_dict=True)
    assert output.deepstack_features is None
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.mix_deepstack is False


@pytest.mark.parametrize("name", ["gemma3", "molmo2"])
@torch.no_grad()
def test_tokens_of_a_video_see_each_other_where_those_of_an_image_do(name):
    model = make_linvt(name)
    batch = {**prompt(model, [[5, "v", 6, 9]]), **videos(name, [make_frames(3)])}
    seen = model.model(**batch, output_attentions=False).last_hidden_state
    types = TYPE_RULES[name].argument
    embeds = model.model.embed_prompt(batch["input_ids"], batch["mm_token_type_ids"], **videos(name, [make_frames(3)]))
    slots = (batch["mm_token_type_ids"] == 2).long()
    plain = model.model.backbone(**embeds, **{types: slots}).last_hidden_state
    torch.testing.assert_close(seen, plain, atol=1e-5, rtol=0)
    causal = model.model.backbone(**embeds, **{types: slots * 0}).last_hidden_state
    assert (seen[:, 1:8] - causal[:, 1:8]).abs().max() > 1e-3


@torch.no_grad()
def test_the_prompt_of_paligemma_sees_itself_and_not_the_answer():
    name = "paligemma"
    model = make_linvt(name)
    media = videos(name, [make_frames(3)])
    start = prompt(model, [[5, "v", 6, 9]])
    del start["token_type_ids"]
    answered = prompt(model, [[5, "v", 6, 9, 20, 21]])
    del answered["token_type_ids"]
    alone = model(**start, **media).logits
    given = torch.tensor([[0] * 10 + [1] * 2])
    told = model(**answered, **media, token_type_ids=given).logits
    torch.testing.assert_close(told[:, :10], alone, atol=1e-5, rtol=0)
    # Labels tell as well, several turns included.
    labels = answered["input_ids"].masked_fill(given == 0, -100)
    torch.testing.assert_close(model(**answered, **media, labels=labels).logits, told, atol=1e-6, rtol=0)
    untold = model(**answered, **media).logits
    assert (untold[:, :10] - alone).abs().max() > 1e-3, "the answer would be seen"
    # The prompt is not causal: its last word reaches the first one.
    other = {**start, "input_ids": start["input_ids"].clone()}
    other["input_ids"][0, -1] = 33
    assert (model(**other, **media).logits[:, 0] - alone[:, 0]).abs().max() > 1e-3
    model.train()
    with pytest.raises(ValueError, match="PaliGemmaModel in training needs token_type_ids"):
        model(**answered, **media)


@torch.no_grad()
def test_logits_of_paligemma_2_are_bounded():
    image_llm, model = make_image_llm("paligemma"), make_linvt("paligemma")
    batch = prompt(model, [[5, 6, 7]])
    given = {key: batch[key] for key in ("input_ids", "attention_mask")}
    for each in (image_llm, model):
        each.config.get_text_config().final_logit_softcapping = 0.5
    expected = image_llm(**given).logits
    if expected.abs().max() > 0.5:
        # transformers 5.20 forgets it.
        expected = (expected / 0.5).tanh() * 0.5
    torch.testing.assert_close(model(**given).logits, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_ovis2_writes_its_indicators_around_a_video():
    name = "ovis2"
    model = make_linvt(name)
    base = model.model.backbone
    text = prompt(model, [[92, "v", 93, 6]])
    embeds = model.model.embed_prompt(text["input_ids"], text["mm_token_type_ids"], **videos(name, [make_frames(2)]))
    features = base.get_image_features(make_processor(name)(make_frames(1), return_tensors="pt")["pixel_values"])
    found = embeds["inputs_embeds"][0]
    assert torch.equal(found[0], features.visual_indicator_features[0])
    assert torch.equal(found[8], features.visual_indicator_features[1])
    assert torch.equal(found[9], model.get_input_embeddings()(torch.tensor(6)))


@torch.no_grad()
def test_molmo2_gives_one_view_per_frame():
    """That of the whole, as for its own videos, though its image processor always makes a crop as well."""
    name = "molmo2"
    base, processor = make_image_llm(name).model, make_processor(name)
    # Wide frames become a view and several crops, square ones a view and one.
    frames = [make_frames(1)[0][:24], *make_frames(2, seed=1)]
    inputs = frame_inputs(processor, name, [frames])
    assert len(inputs["pixel_values_videos"]) == 3
    found = (
        Backbone(base)
        .encode_frames({key.removesuffix("_videos"): value for key, value in inputs.items()}, [3])
        .tokens[0]
    )
    views = found.shape[1]
    for number, frame in enumerate(frames):
        own = processor([frame], return_tensors="pt")
        assert len(own["pixel_values"]) > 1
        crops = base.get_image_features(**{k: v for k, v in own.items() if k != "image_num_crops"}).pooler_output[0]
        assert len(crops) > views
        torch.testing.assert_close(found[number], crops[:views], atol=1e-5, rtol=1e-5)
