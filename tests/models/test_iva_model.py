"""IVA's adapter in its place: copies, checkpointing, PEFT, further questions on a cache, long videos."""

import copy
import gc
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import QUERY, VIDEO, DesignCase, Row, collate, iva_case, random_frames, with_labels, with_other_media
from peft import LoraConfig, PeftModel, get_peft_model
from torch._dynamo.testing import CompileCounter
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
)

from hf_videollm.models.configuration_iva import IvaConfig
from hf_videollm.models.iva_frames import IvaVideoState, MediumFrames
from hf_videollm.models.iva_hooks import call_adapter, drop_context
from hf_videollm.models.modeling_iva import IvaForConditionalGeneration, IvaModel
from hf_videollm.models.transformers_compat import enable_checkpointing

TEXTS = ["llama", "qwen2", "gemma2"]
every_text = pytest.mark.parametrize("text", TEXTS)
MIXED = [["v3"], ["v2", "i", "v4"], [], ["v5"]]
TOLERANCE = 5e-5


def logits_of(model: Any, batch: dict[str, Any], **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **options).logits


def assert_same(left: torch.Tensor, right: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=tolerance)


def assert_moved(left: torch.Tensor, right: torch.Tensor, least: float = 0.05) -> None:
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()
    assert (left - right).abs().max() > least


def move_adapter(model: Any) -> None:
    with torch.no_grad():
        model.base_model.adapter.output.weight.mul_(-1.0)


# Copies


@every_text
def test_the_adapter_of_a_copy_is_the_copys(text: str) -> None:
    case = iva_case(text)
    model, batch = case.make_model(), case.make_batch([["v3", "i"]])
    before = logits_of(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin, batch), before)
    move_adapter(twin)
    assert_moved(logits_of(twin, batch), before)
    assert torch.equal(logits_of(model, batch), before), "the hooks of the original call the adapter of the copy"


def test_pickle() -> None:
    case = iva_case("llama")
    batch, model = case.make_batch([["v3", "i"]]), case.make_model()
    # Before the first call: later, transformers has hooks of its own on it that cannot be pickled.
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits_of(twin, batch), logits_of(model, batch))


@every_text
def test_hooks_after_loading(text: str, tmp_path: Path) -> None:
    case = iva_case(text)
    model, batch = case.make_model(), case.make_batch([["v3", "i"]])
    model.save_pretrained(tmp_path)
    loaded = IvaForConditionalGeneration.from_pretrained(tmp_path)
    layers = loaded.model.language_model.layers
    assert [list(layer._forward_pre_hooks.values()) for layer in layers] == [[call_adapter], [call_adapter]]
    assert_same(logits_of(loaded, batch), logits_of(model, batch))
    move_adapter(loaded)
    assert_moved(logits_of(loaded, batch), logits_of(model, batch))
    fewer = IvaForConditionalGeneration.from_pretrained(tmp_path, num_insertions=1)
    hooks = [list(layer._forward_pre_hooks.values()) for layer in fewer.model.language_model.layers]
    assert hooks == [[call_adapter], [drop_context]]
    with pytest.raises(ValueError, match="num_insertions is 3, but the language model has 2 layers"):
        IvaForConditionalGeneration.from_pretrained(tmp_path, num_insertions=3)


def test_a_model_in_half_precision_and_an_adapter_in_full() -> None:
    """The adapter keeps its own precision, as training libraries like to set it."""
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3", "i"], ["v5"]])
    expected = logits_of(model, batch)
    model.to(torch.bfloat16)
    half = logits_of(model, batch)
    model.model.adapter.float()
    mixed = logits_of(model, batch)
    assert half.dtype == mixed.dtype == torch.bfloat16
    scale = expected.abs().max()
    assert (half.float() - expected).abs().mean() < 0.05 * scale
    assert (mixed.float() - expected).abs().mean() < 0.05 * scale
    assert {chunk.dtype for medium in features(model, batch)["video"].frames for chunk in medium.chunks} == {
        torch.bfloat16
    }, "patch features are kept in the model's own dtype"


def features(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    with torch.no_grad():
        return model.base_model.encode_media(batch)[0]


# Training


def gradients(model: Any, *batches: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Gradients of several forwards, then one backward."""
    model.train()
    model.zero_grad()
    sum(model(**with_labels(batch), use_cache=False).loss for batch in batches).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tower_is_frozen", [True, False])
@pytest.mark.parametrize("use_reentrant", [True, False])
@every_text
def test_checkpointed_gradients_equal_stored_ones(text: str, use_reentrant: bool, tower_is_frozen: bool) -> None:
    """Also when the backward pass comes after another forward, with other videos."""
    case = iva_case(text)
    model = case.make_model()
    if tower_is_frozen:
        model.model.vision_tower.requires_grad_(False)
    batches = [case.make_batch([["v3"], ["v2", "i"]]), case.make_batch([["v5"], []], seed=1)]
    expected = gradients(model, *batches)
    assert any(name.startswith("model.vision_tower") for name in expected) != tower_is_frozen
    enable_checkpointing(model, {"use_reentrant": use_reentrant})
    found = gradients(model, *batches)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_same(found[name], gradient, 1e-4 * max(1.0, gradient.abs().max().item()))
    assert expected["model.adapter.layers.0.selector.query.weight"].abs().max() > 1e-4


def test_a_frozen_tower_keeps_nothing_for_a_backward_pass() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"]])
    model.model.vision_tower.requires_grad_(False)
    # As transformers does with gradient checkpointing.
    model.model.vision_tower.embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())
    output = model.get_video_features(batch["pixel_values_videos"])
    assert output.pooler_output[0].requires_grad, "the connector is trained"
    assert not any(chunk.requires_grad for medium in output.frames for chunk in medium.chunks)
    # But whoever asks for the gradient of pixels gets it.
    pixels = batch["pixel_values_videos"].requires_grad_()
    model.get_video_features(pixels).pooler_output[0].sum().backward()
    assert pixels.grad.abs().max() > 0


def test_lora_with_the_adapter_saved_beside_it(tmp_path: Path) -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch(MIXED)
    before = logits_of(model, batch)
    # The last layer's, the deepest the gradient has to come from.
    lora = LoraConfig(
        r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", modules_to_save=["adapter", "query_tokens"]
    )
    peft_model = get_peft_model(copy.deepcopy(model), lora)
    assert_same(logits_of(peft_model, batch), before)
    peft_model.enable_input_require_grads()
    found = gradients(peft_model, batch)
    trained = [name for name, parameter in peft_model.named_parameters() if parameter.requires_grad]
    assert any("adapter.modules_to_save" in name for name in trained)
    assert any("query_tokens.modules_to_save" in name for name in trained)
    assert set(trained) == set(found)
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):  # LoRA's B is zero at first
        gradients(peft_model, batch)
        optimizer.step()
    trained_logits = logits_of(peft_model.eval(), batch)
    assert_moved(trained_logits, before, 0.01)
    peft_model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    assert_same(logits_of(reloaded, batch), trained_logits)
    merged = reloaded.merge_and_unload()
    assert_same(logits_of(merged, batch), trained_logits)
    move_adapter(merged)
    assert_moved(logits_of(merged, batch), trained_logits)


@pytest.mark.slow
def test_compiled_training_step_as_one_graph() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"], ["v3"]])
    batch.pop("num_video_frames")
    model.model.vision_tower.requires_grad_(False)
    expected = gradients(model, batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for name, gradient in gradients(compiled, batch).items():
        name = name.removeprefix("_orig_mod.")
        assert_same(gradient, expected[name], 1e-4 * max(1.0, expected[name].abs().max().item()))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["layers", "language model"])
def test_compiled_in_parts(part: str) -> None:
    """The hooks and what they are told follow from call to call, without a new graph for each."""
    case = iva_case("llama")
    model, rows = case.make_model(), case.make_rows([["v3"], ["v3", "i"]])
    batches = [collate(rows), collate(with_other_media(rows))]
    expected = [logits_of(model, batch) for batch in batches]
    assert_moved(*expected)
    torch._dynamo.reset()
    counter = CompileCounter()
    language_model = model.model.language_model
    for module in language_model.layers if part == "layers" else [language_model]:
        module.compile(backend=counter, fullgraph=True)
    assert_same(logits_of(model, batches[0]), expected[0])
    graphs = counter.frame_count
    assert graphs >= 1
    assert_same(logits_of(model, batches[1]), expected[1])
    assert counter.frame_count == graphs


def test_features_of_the_tower_in_place_of_pixels() -> None:
    """For training on features that were computed before."""
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"], ["v5"]])
    expected = logits_of(model, batch)
    frames = torch.cat([batch["pixel_values_videos"][0, :3], batch["pixel_values_videos"][1]])
    with torch.no_grad():
        tokens = model.model.vision_tower(frames, output_hidden_states=True).hidden_states[-2]
        output = model.model.encode_features(tokens.split(3), [3, 5])
        text = {name: batch[name] for name in ("input_ids", "attention_mask")}
        assert_same(model(**text, mm_encoder_outputs={"video": output}).logits, expected)
        other = model.model.encode_features([tokens.flip(0)], [3, 5])
        assert_moved(model(**text, mm_encoder_outputs={"video": other}).logits, expected)


# Prompts


def test_an_image_without_temporal_token() -> None:
    case = iva_case("llama", image_temporal_token=False)
    model = case.make_model()
    (row,) = case.make_rows([["i", "v2"]])
    assert case.make_config().num_image_tokens() == 1
    batch = collate([row])
    assert_moved(logits_of(model, batch), logits_of(model, collate(with_other_media([row]))))
    assert [len(vectors) for vectors in features(model, batch)["image"].pooler_output] == [1]
    assert [len(vectors) for vectors in features(model, batch)["video"].pooler_output] == [4]


def two_rounds(case: DesignCase, seed: int = 0) -> tuple[Row, int]:
    """A packed conversation, a block of queries before either answer, another video in each round."""
    generator = torch.Generator().manual_seed(seed)
    videos = (random_frames(3, generator), random_frames(2, generator))
    parts, length = [], 0
    for index, video in enumerate(videos):
        text = torch.randint(3, 100, (4,), generator=generator)
        parts += [text[:2], torch.full((2 * len(video),), VIDEO), text[2:], torch.full((3,), QUERY), text[:3]]
        length = len(torch.cat(parts)) if index == 0 else length
    return Row(torch.cat(parts), videos), length


@pytest.mark.parametrize("placement", ["last", "every"])
def test_packed_rounds_equal_rounds_alone(placement: str) -> None:
    """The queries of the first round see nothing of the second."""
    case = iva_case("llama", query_placement=placement)
    model = case.make_model()
    row, length = two_rounds(case)
    packed = logits_of(model, collate([row]))
    first = Row(row.ids[:length], row.videos[:1])
    assert_same(packed[:, :length], logits_of(model, collate([first])))
    # The second block sees both videos.
    for index in range(2):
        videos = tuple(random_frames(len(v), torch.Generator()) if i == index else v for i, v in enumerate(row.videos))
        moved = (logits_of(model, collate([replace(row, videos=videos)])) - packed)[0].abs().amax(-1)
        assert (moved[-3:] > 1e-2).all()


@every_text
def test_frame_attentions(text: str) -> None:
    case = iva_case(text)
    model, rows = case.make_model(), case.make_rows(MIXED)
    found = model.model.get_frame_attentions(**collate(rows, "left"))
    assert [tuple(weights.shape) for weights in found] == [(2, 2, 3, 3), (2, 2, 3, 7), (2, 2, 0, 0), (2, 2, 3, 5)]
    for row, weights in zip(rows, found, strict=True):
        (alone,) = model.model.get_frame_attentions(**collate([row]))
        assert_same(weights, alone)
        assert_same(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert found[3].std() > 1e-3
    with pytest.raises(ValueError, match="no adapter"):
        case.make_model(num_insertions=0).model.get_frame_attentions(**case.make_batch([[]]))


def test_text_and_the_model_without_iva() -> None:
    case = iva_case("llama")
    model, text = case.make_model(), case.make_batch([[], []])
    baseline = case.make_model(num_insertions=0)
    assert not hasattr(baseline.model, "adapter")
    assert not hasattr(baseline.model, "query_tokens")
    shared = {name: weight for name, weight in model.state_dict().items() if name in baseline.state_dict()}
    baseline.load_state_dict(shared)
    assert torch.equal(logits_of(model, text), logits_of(baseline, text))
    (row,) = replace(case, config={**case.config, "num_insertions": 0}).make_rows([["v3"]])
    assert not (row.ids == QUERY).any()
    assert_moved(logits_of(baseline, collate([row])), logits_of(baseline, collate(with_other_media([row]))))
    assert baseline.get_video_features(row.videos[0][None]).frames is None


def test_query_tokens_need_no_row_in_the_embedding_table() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"], []])
    expected = logits_of(model, batch)
    model.config.query_token_id = 5000
    is_query = batch["input_ids"] == QUERY
    moved = {**batch, "input_ids": batch["input_ids"].masked_fill(is_query, 5000)}
    assert_same(logits_of(model, moved), expected)
    # Nor do they get in the way of embeddings without media.
    text = case.make_batch([[]])
    embeds = model.get_input_embeddings()(text["input_ids"])
    assert_same(logits_of(model, {"inputs_embeds": embeds}), logits_of(model, text))


# Placeholders that a model would write


class Favour(LogitsProcessor):
    """Makes a model want to write placeholders."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, [QUERY, VIDEO]] += 1e4
        return scores


@pytest.mark.parametrize("use_cache", [True, False])
def test_placeholders_are_not_written(use_cache: bool) -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"], ["v2", "i"]], padding_side="left")
    model.generation_config.suppress_tokens = None
    options = {"max_new_tokens": 5, "do_sample": False, "use_cache": use_cache}
    favour = {"logits_processor": LogitsProcessorList([Favour()])}
    length = batch["input_ids"].shape[1]
    found = model.generate(**batch, **options, **favour)[:, length:]
    assert not torch.isin(found, torch.tensor([QUERY, VIDEO])).any()
    first = int(found[0, 0])
    assert not (model.generate(**batch, **options, suppress_tokens=[first]) == first)[:, length:].any()
    config = GenerationConfig(max_new_tokens=5, do_sample=False, use_cache=use_cache, suppress_tokens=[first])
    given = model.generate(**batch, **favour, generation_config=config)[:, length:]
    assert not torch.isin(given, torch.tensor([QUERY, VIDEO, first])).any()
    assert config.suppress_tokens == [first]
    # As transformers generates.
    without = lambda: GenerationMixin.generate(model, **batch, **options, **favour)  # noqa: E731
    if use_cache:
        assert torch.isin(without()[:, length:], torch.tensor([QUERY, VIDEO])).all()
    else:
        with pytest.raises(ValueError, match=r"placeholders|query tokens"):
            without()


def test_a_query_token_in_a_step_is_text() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"]])
    found, expected = DynamicCache(), DynamicCache()
    with torch.no_grad():
        for cache in (found, expected):
            model(**batch, past_key_values=cache)
        query = torch.tensor([[QUERY]])
        logits = model(query, past_key_values=found).logits
        embeds = model.get_input_embeddings()(query)
        named = {model.model.cache_argument: expected}
        states = model.model.language_model(inputs_embeds=embeds, **named).last_hidden_state
        assert_same(logits, model.lm_head(states))
        assert_moved(logits, model(torch.tensor([[7]]), past_key_values=found).logits)
        with pytest.raises(ValueError, match="no video or image for them to look at"):
            model(query.expand(1, 3), past_key_values=found)


# A second question


def rounds(case: DesignCase, counts: Sequence[int]) -> tuple[list[Row], list[Row]]:
    """Prompts of a first question, and of a second: the first without queries, an answer, a question, queries."""
    generator = torch.Generator().manual_seed(0)
    firsts, seconds = [], []
    for count in counts:
        video = random_frames(count, generator)
        question = torch.randint(3, 100, (3 + count % 2,), generator=generator)
        prompt = torch.cat([torch.full((2 * count,), VIDEO), question])
        more = torch.randint(3, 100, (5,), generator=generator)
        queries = torch.full((3,), QUERY)
        firsts.append(Row(torch.cat([prompt, queries]), (video,)))
        seconds.append(Row(torch.cat([prompt, more, queries]), (video,)))
    return firsts, seconds


@every_text
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_second_question_by_hand(text: str, kind: str) -> None:
    """Cut the cache back, go on behind the video with the video's state: the logits of the whole prompt."""
    case = iva_case(text)
    model = case.make_model()
    (first,), (second,) = rounds(case, [4])
    config = model.config.get_text_config()
    cache = StaticCache(config, max_cache_len=64) if kind == "static" else DynamicCache()
    with torch.no_grad():
        state = model.get_video_features(first.videos[0][None])
        start = int((first.ids == QUERY).int().argmax())
        prefix = {"input_ids": first.ids[None], "mm_encoder_outputs": {"video": state}}
        if kind == "dynamic":
            model(**prefix, past_key_values=cache)
            assert model.crop_to_queries(cache, first.ids[None]) == start
            assert cache.get_seq_length() == start
            # Nothing but query tokens in the call: what is on the cache is before them.
            again = {"input_ids": first.ids[None, start:], "past_key_values": cache}
            found = model(**again, position_ids=torch.arange(start, len(first.ids))[None], video_state=state).logits
            assert_same(found[0], logits_of(model, collate([first]))[0, start:])
            model.crop_to_queries(cache, first.ids[None])
        else:
            # A static cache cannot be cut, so it gets no further than the question from the start.
            question = case.make_model(num_insertions=0)
            question.load_state_dict({n: w for n, w in model.state_dict().items() if n in question.state_dict()})
            question(**{**prefix, "input_ids": first.ids[None, :start]}, past_key_values=cache)
        positions = torch.arange(start, len(second.ids))[None]
        rest = {"input_ids": second.ids[None, start:], "past_key_values": cache, "position_ids": positions}
        found = model(**rest, video_state=state).logits
    assert_same(found[0], logits_of(model, collate([second]))[0, start:])
    (other,) = with_other_media([second])
    assert_moved(found[0], logits_of(model, collate([other]))[0, start:])


@every_text
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("counts", [[3], [3, 5, 2]], ids=str)
def test_a_second_question_with_generate(text: str, counts: list[int], num_beams: int) -> None:
    case = iva_case(text)
    model = case.make_model()
    firsts, seconds = rounds(case, counts)
    batch, later = collate(firsts, "left"), collate(seconds, "left")
    output = model.get_video_features(batch["pixel_values_videos"], batch["num_video_frames"])
    state = model.model.make_video_state(output, batch["input_ids"])
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    media = {"mm_encoder_outputs": {"video": output}}
    text_of = lambda batch: {name: batch[name] for name in ("input_ids", "attention_mask")}  # noqa: E731
    results = {}
    steps: list[bool] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append("video_state" in kwargs), with_kwargs=True
    )
    for name, video_state in (("output", output), ("dict", {"video": output}), ("state", state)):
        # A cache that forgets nothing, also with sliding windows.
        first = model.generate(**text_of(batch), **media, past_key_values=DynamicCache(), **options)
        model.crop_to_queries(first.cache, batch["input_ids"])
        if num_beams > 1:
            first.cache.batch_repeat_interleave(num_beams)
        results[name] = model.generate(
            **text_of(later),
            past_key_values=first.cache,
            video_state=video_state,
            num_beams=num_beams,
            **options,
        )
    assert steps == 3 * [*[False] * 4, True, *[False] * 3], "the adapter has no part in the steps behind a prompt"
    expected = model.generate(**later, num_beams=num_beams, **options)
    for found in results.values():
        assert torch.equal(found.sequences, expected.sequences)
        assert_same(torch.stack(found.logits), torch.stack(expected.logits))
    others = collate(with_other_media(seconds), "left")
    assert_moved(model.generate(**others, num_beams=num_beams, **options).logits[0], expected.logits[0])


def test_states_of_videos_in_rows() -> None:
    case = iva_case("llama")
    model = case.make_model()
    batch = case.make_batch([["v3"], ["v2", "i", "v4"], ["i"]])
    outputs = features(model, batch)
    state = model.model.make_video_state(outputs, batch["input_ids"])
    lengths = [len(medium.global_features) for medium in state.media]
    assert sorted(zip(state.rows.tolist(), lengths, strict=True)) == [(0, 3), (1, 1), (1, 2), (1, 4), (2, 1)]
    twice = state.repeat(2)
    lengths = [len(medium.global_features) for medium in twice.media]
    expected = [(0, 3), (1, 3), (2, 1), (2, 2), (2, 4), (3, 1), (3, 2), (3, 4), (4, 1), (5, 1)]
    assert sorted(zip(twice.rows.tolist(), lengths, strict=True)) == expected
    assert model.model.make_video_state(state, batch["input_ids"]) is state
    with pytest.raises(ValueError, match="hold 0 video placeholders"):
        model.model.make_video_state(outputs["video"], torch.full((3, 4), 7))
    with pytest.raises(TypeError, match="video_state must be"):
        model.model.make_video_state([1], batch["input_ids"])


def test_cutting_a_cache_needs_queries_at_one_place() -> None:
    case = iva_case("llama")
    model, rows = case.make_model(), rounds(case, [3, 5])[0]
    for batch in (collate(rows, "right"), case.make_batch([["v3"], []])):
        cache = DynamicCache()
        logits_of(model, batch, past_key_values=cache)
        with pytest.raises(ValueError, match="must hold query tokens, and they must begin at the same column"):
            model.crop_to_queries(cache, batch["input_ids"])


# Long videos


def test_pixels_and_features_of_a_long_video_are_held_once() -> None:
    """Frames go through the tower as views of the input, features stay in the chunks in which they came."""
    case = iva_case("llama", vision_chunk_size=8)
    model = case.make_model()
    videos = torch.randn(2, 20, 3, 16, 16)
    seen = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    with torch.no_grad():
        output = model.get_video_features(videos, torch.tensor([20, 12]))
    assert [len(chunk) for chunk in seen] == [8, 8, 8, 8]
    start, end = videos.data_ptr(), videos.data_ptr() + videos.nbytes
    views = [start <= chunk.data_ptr() < end for chunk in seen]
    assert views == [True, True, False, True], "only the chunk in which two videos meet is copied"
    chunks = [chunk for medium in output.frames for chunk in medium.chunks]
    assert [len(chunk) for chunk in chunks] == [8, 8, 4, 4, 8]
    storages = {chunk.untyped_storage().data_ptr(): chunk.untyped_storage().nbytes() for chunk in chunks}
    assert sum(storages.values()) == 32 * 16 * 16 * 4, "class tokens, or other layers, are kept beside the patches"


def test_nothing_of_the_tower_stays_alive_beside_the_features() -> None:
    """Nothing of the tower's output is alive when it starts on the next chunk; with all layers kept, it is."""
    case = iva_case("llama", vision_chunk_size=8)
    model = case.make_model()
    size = 8 * 17 * 16 * 4
    alive: list[int] = []

    def count(*_: Any) -> None:
        # Tensors of other tests may be alive as well, some of them sparse and without a storage.
        tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.layout is torch.strided]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        alive.append(sum(nbytes == size for nbytes in storages.values()))

    model.model.vision_tower.register_forward_pre_hook(count)
    with torch.no_grad():
        model.get_video_features(torch.randn(1, 40, 3, 16, 16))
        assert len(alive) == 5
        assert 0 == alive[1] == alive[2] == alive[4]
        model.get_video_features(torch.randn(1, 40, 3, 16, 16), output_hidden_states=True)
    assert 0 < alive[6] < alive[9]


def test_an_hour_at_one_frame_per_second() -> None:
    """The event of three frames is found wherever it is, and streaming through chunks of any size gives the same."""
    num_frames = 3600
    text = {**iva_case("llama").config["text_config"], "max_position_embeddings": 8192}
    case = iva_case("llama", text_config=text, vision_chunk_size=64, frames_per_chunk=32, num_adapter_layers=1)
    model = case.make_model()
    video = random_frames(1, torch.Generator().manual_seed(0)).expand(num_frames, -1, -1, -1).clone()
    ids = torch.cat([torch.full((2 * num_frames,), VIDEO), torch.tensor([5, 6, 7]), torch.full((3,), QUERY)])
    batch = collate([Row(ids, (video,))])
    plain = logits_of(model, batch, logits_to_keep=1)
    video[num_frames // 2 : num_frames // 2 + 3] = 2 * random_frames(1, torch.Generator().manual_seed(1))
    batch = collate([Row(ids, (video,))])
    found = logits_of(model, batch, logits_to_keep=1)
    assert_moved(found, plain, 1e-4)
    (weights,) = model.model.get_frame_attentions(**batch)
    event = weights[..., num_frames // 2 : num_frames // 2 + 3]
    assert (event.mean(-1) - weights[..., :10].mean(-1)).abs().max() > 0.1 / num_frames
    model.model.adapter.layers[0].selector.frames_per_chunk = None
    model.config.vision_chunk_size = 500
    assert_same(logits_of(model, batch, logits_to_keep=1), found, 1e-4)


def test_a_state_is_no_container() -> None:
    """accelerate, which sends everything it can look into to the device of every layer, leaves it alone."""
    from accelerate.utils import send_to_device

    medium = MediumFrames(torch.zeros(2, 4), [torch.zeros(2, 3, 4)])
    state = IvaVideoState([medium], torch.zeros(1, dtype=torch.long))
    assert send_to_device({"state": state}, "meta")["state"] is state
    assert medium.chunks[0].device.type == "cpu"


def test_auto_classes(tmp_path: Path) -> None:
    config = iva_case("llama").make_config()
    assert config.auto_map["AutoModelForImageTextToText"] == "modeling_iva.IvaForConditionalGeneration"
    assert type(AutoModelForCausalLM.from_config(config)) is IvaForConditionalGeneration
    assert IvaModel.config_class is IvaForConditionalGeneration.config_class is IvaConfig
