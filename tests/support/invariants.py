"""What must hold for every design, each with a control that shows the check could fail.

All checks compare logits: a tiny random model often writes the same tokens whatever it sees. The control is usually
the same prompts with other media; the logits must move by `case.sensitivity`, thousands of times the tolerance.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from factory import VOCAB_SIZE, DesignCase, Row, collate, repeat_rows, with_labels, with_other_media
from transformers import PreTrainedModel

from hf_videollm.models.transformers_compat import enable_checkpointing

# Float32 sums in another order: up to 5.01e-5 was seen (Gemma 2 under transformers 5.20), on logits of about 6.
TOLERANCE = 1e-4
NEW_TOKENS = 4
# One video; several of unequal length in a row; images between them; text only.
MIXED = [["v3"], ["v2", "i", "v4"], [], ["i", "i"], ["v4", "v1"]]
# Videos per row: (1,1,1), (1,0,2), (0,2,1), (2,2,2); frame counts differ, images mixed in.
ROW_LAYOUTS = {
    "1-1-1": [["v2"], ["v4"], ["v3"]],
    "1-0-2": [["v4"], [], ["v2", "v3"]],
    "0-2-1": [["i"], ["v3", "v4"], ["v2"]],
    "2-2-2": [["v2", "v4"], ["v3", "i", "v2"], ["i", "v4", "v1"]],
}


MEDIA_KEYS = ("pixel_values", "pixel_values_videos", "num_video_frames", "input_features", "input_features_mask")


def logits_of(model: PreTrainedModel, batch: dict[str, Any], **kwargs: Any) -> torch.Tensor:
    """Logits of a plain forward."""
    with torch.no_grad():
        return model(**batch, **kwargs).logits


def last_logits(model: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """Logits behind each prompt, every prompt run alone: the reference for all batching."""
    return torch.cat([logits_of(model, collate([row]))[:, -1] for row in rows])


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest difference; a NaN counts as infinite."""
    assert left.shape == right.shape, f"shapes {tuple(left.shape)} and {tuple(right.shape)} differ"
    difference = (left.float() - right.float()).abs().max().item()
    return difference if difference == difference else float("inf")


def assert_same(left: torch.Tensor, right: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    found = distance(left, right)
    assert found <= tolerance, f"{what}: differ by {found:.2e}, more than {tolerance:.0e}"


def assert_moved(left: torch.Tensor, right: torch.Tensor, case: DesignCase, what: str) -> None:
    """The control: these two must be far apart, and finite."""
    assert torch.isfinite(left).all(), f"{what}: not finite"
    assert torch.isfinite(right).all(), f"{what}: not finite"
    found = distance(left, right)
    assert found >= case.sensitivity, f"{what}: moved by {found:.2e} only, the check would see nothing"


def assert_sees_media(model: PreTrainedModel, rows: Sequence[Row], case: DesignCase) -> None:
    """Every prompt with media answers differently when its media are others, and no other prompt does."""
    before, after = last_logits(model, rows), last_logits(model, with_other_media(rows))
    for row, old, new in zip(rows, before, after, strict=True):
        if row.has_media:
            assert_moved(old, new, case, "other media")
        else:
            assert torch.equal(old, new)


def generate(model: PreTrainedModel, batch: dict[str, Any], **kwargs: Any) -> Any:
    """Generation of a few tokens that returns the raw logits of every step."""
    kwargs = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs}
    return model.generate(**batch, output_logits=True, return_dict_in_generate=True, **kwargs)


def step_logits(model: PreTrainedModel, batch: dict[str, Any], **kwargs: Any) -> torch.Tensor:
    """Raw logits `(steps, rows, vocabulary)` of a generation."""
    return torch.stack(generate(model, batch, **kwargs).logits)


def media_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The media of a batch without its text."""
    return {key: batch[key] for key in MEDIA_KEYS if key in batch}


def media_outputs(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a batch into its text and its encoded media, as `mm_encoder_outputs` takes them."""
    with torch.no_grad():
        media, text = model.base_model.encode_media(batch)
    return text, {"mm_encoder_outputs": media}


def check_padding(case: DesignCase, side: str) -> None:
    """A row of a padded batch gives the logits it gives alone."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    assert_sees_media(model, rows, case)
    batch = collate(rows, side)
    logits = logits_of(model, batch)
    for row, found, mask in zip(rows, logits, batch["attention_mask"].bool(), strict=True):
        assert_same(found[mask], logits_of(model, collate([row]))[0], f"{side}-padded row and row alone")


def check_position_ids(case: DesignCase) -> None:
    """Where a prompt stands decides its positions: giving the right ones changes nothing, wrong ones do."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    batch = collate(rows, "left")
    mask = batch["attention_mask"].bool()
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    default = logits_of(model, batch)[mask]
    assert_same(default, logits_of(model, {**batch, "position_ids": positions})[mask], "explicit positions")
    assert_moved(default, logits_of(model, {**batch, "position_ids": 2 * positions})[mask], case, "wrong positions")


def check_decoding_by_hand(case: DesignCase) -> None:
    """A left-padded prompt continued on its cache, token by token without `generate`, equals one long prompt."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    batch = collate(rows, "left")
    more = torch.randint(3, 100, (len(rows), 3))
    mask = torch.cat([batch["attention_mask"], torch.ones_like(more)], 1)
    longer = {**batch, "input_ids": torch.cat([batch["input_ids"], more], 1), "attention_mask": mask}
    longer.pop("mm_token_type_ids")
    expected = logits_of(model, longer)[:, -3:]
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
        steps = []
        for index in range(3):
            seen = mask[:, : batch["input_ids"].shape[1] + index + 1]
            output = model(input_ids=more[:, index : index + 1], attention_mask=seen, past_key_values=cache)
            steps.append(output.logits)
    assert_same(torch.cat(steps, 1), expected, "decoding by hand")
    other = {**longer, **media_of(collate(with_other_media(rows), "left"))}
    assert_moved(logits_of(model, other)[:, -3:], expected, case, "other media")


def check_cache(case: DesignCase, implementation: str) -> None:
    """Generation with a cache gives the logits of generation without, at every step."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    batch = collate(rows, "left")
    plain = generate(model, batch, use_cache=False)
    cached = generate(model, batch, cache_implementation=implementation)
    assert torch.equal(cached.sequences, plain.sequences)
    assert_same(torch.stack(cached.logits), torch.stack(plain.logits), f"{implementation} cache and no cache")
    assert_same(plain.logits[0], last_logits(model, rows), "first step and forward of the row alone")
    other = step_logits(model, collate(with_other_media(rows), "left"))
    assert_moved(other[0], plain.logits[0], case, "other media")


def check_return_sequences(case: DesignCase, layout: str) -> None:
    """Two samples per prompt are what the prompts written out twice give, with the same dice."""
    model, rows = case.make_model(), case.make_rows(ROW_LAYOUTS[layout])
    torch.manual_seed(7)
    found = generate(model, collate(rows, "left"), do_sample=True, num_return_sequences=2)
    torch.manual_seed(7)
    expected = generate(model, collate(repeat_rows(rows, 2), "left"), do_sample=True)
    assert torch.equal(found.sequences, expected.sequences)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits), "two samples per prompt")
    other = step_logits(model, collate(repeat_rows(with_other_media(rows), 2), "left"))
    assert_moved(other[0], expected.logits[0], case, "other media")


def check_beams(case: DesignCase, layout: str, encoded: bool = False) -> None:
    """The first step of a beam search is that of the rows written out; its scores are the model's own.

    The score of a finished beam must be the sum of the log-probabilities that an uncached forward of the prompt with
    its own media gives to the tokens written: this sees media mixed up at the start and caches mixed up later.
    """
    num_beams = 3
    model, rows = case.make_model(), case.make_rows(ROW_LAYOUTS[layout])
    batch = collate(rows, "left")
    text, media = media_outputs(model, batch) if encoded else (batch, {})
    found = generate(
        model, {**text, **media}, num_beams=num_beams, num_return_sequences=num_beams,
        length_penalty=0.0, output_scores=True,
    )  # fmt: skip
    repeated = repeat_rows(rows, num_beams)
    assert_same(found.logits[0], last_logits(model, repeated), "first step of the beams and rows written out")
    written = found.sequences[:, batch["input_ids"].shape[1] :]
    scores = [beam_score(model, row, tokens) for row, tokens in zip(repeated, written, strict=True)]
    assert_same(found.sequences_scores, torch.stack(scores), "scores of the beams", 10 * TOLERANCE)
    # Every row with media, seen with other media: what a mixed-up batch would compute.
    others = with_other_media(repeated)
    wrong = [beam_score(model, row, tokens) for row, tokens in zip(others, written, strict=True)]
    assert_moved(torch.stack(wrong), torch.stack(scores), case, "scores with other media")


def beam_score(model: PreTrainedModel, row: Row, written: torch.Tensor) -> torch.Tensor:
    """Log-probability that the model gives to `written` behind the prompt, in one uncached forward."""
    full = replace(row, ids=torch.cat([row.ids, written]))
    logits = logits_of(model, collate([full]), use_cache=False)[0, -len(written) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, written.unsqueeze(-1)).sum()


def check_media_expansion_is_needed(case: DesignCase) -> None:
    """Control of the beam checks: repeating every tensor row by row, as transformers does, is visibly wrong."""
    model, rows = case.make_model(), case.make_rows([["v3", "v3"], ["v3", "v3"]])
    right = logits_of(model, collate(repeat_rows(rows, 2)))
    naive = {key: value.repeat_interleave(2, 0) for key, value in collate(rows).items()}
    assert_moved(logits_of(model, naive), right, case, "media repeated one by one")


def check_chunked_encoding(case: DesignCase) -> None:
    """The tower may see its frames in portions of any size."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    batch = collate(rows)
    mask = batch["attention_mask"].bool()
    sizes: list[int] = []
    hook = model.base_model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    model.config.vision_chunk_size = None
    whole = logits_of(model, batch)[mask]
    videos = int(batch["num_video_frames"].sum())
    images = len(batch["pixel_values"])
    assert sorted(sizes) == sorted([images, videos]), "the tower must see exactly the valid frames"
    for chunk_size in (1, 3, 64):
        sizes.clear()
        model.config.vision_chunk_size = chunk_size
        assert_same(logits_of(model, batch)[mask], whole, f"chunks of {chunk_size} frames")
        assert max(sizes) == min(chunk_size, max(images, videos))
        assert sum(sizes) == images + videos
    hook.remove()
    assert_sees_media(model, rows, case)


def check_save_and_reload(case: DesignCase, folder: Path) -> None:
    """A checkpoint read back, with the head or without, is the model that was saved."""
    model, batch = case.make_model(), case.make_batch(MIXED)
    model.save_pretrained(folder)
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True)
        reloaded = type(model).from_pretrained(folder)
        weights = reloaded.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        # Weights in another place of memory may get another kernel, so results are equal up to rounding.
        assert_same(reloaded(**batch).logits, expected.logits, "reloaded")
        headless = type(model.base_model).from_pretrained(folder)
        assert_same(headless(**batch).last_hidden_state, expected.hidden_states[-1], "reloaded without head")
        reloaded.save_pretrained(folder / "again")
        assert read_config(folder / "again") == read_config(folder)
        mask = batch["attention_mask"].bool()
        assert_moved(case.make_model(seed=1)(**batch).logits[mask], expected.logits[mask], case, "other weights")


def read_config(folder: Path) -> dict[str, Any]:
    """The saved configuration, less the dtype that transformers notes in the parts of a model it has loaded."""
    config = json.loads((folder / "config.json").read_text())
    # An image-LLM in a model has parts of its own.
    for whole in (config, config.get("backbone_config", {})):
        for part in ("vision_config", "text_config", "audio_config", "backbone_config", "linvt_config"):
            whole.get(part, {}).pop("dtype", None)
    return config


def check_deepcopy(case: DesignCase) -> None:
    """A copy is equal and independent."""
    model, batch = case.make_model(), case.make_batch([["v3", "i"]])
    before = logits_of(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin, batch), before)
    with torch.no_grad():
        base = twin.base_model
        for parameter in (base.connector if hasattr(base, "connector") else base.linvt).parameters():
            parameter.mul_(-1.0)
    assert torch.equal(logits_of(model, batch), before)
    assert_moved(logits_of(twin, batch), before, case, "connector of the copy changed")


def gradients(model: PreTrainedModel, batch: dict[str, Any]) -> dict[str, torch.Tensor | None]:
    """Gradient of the loss by parameter name."""
    model.train()
    model.zero_grad()
    loss = model(**with_labels(batch), use_cache=False).loss
    assert torch.isfinite(loss)
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def check_gradients(case: DesignCase) -> None:
    """The loss reaches every trainable parameter; what is frozen from the start could not be reached anyway."""
    model, batch = case.make_model(), case.make_batch(MIXED)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    found = gradients(model, batch)
    for name, gradient in found.items():
        if name in frozen:
            assert gradient is None
            continue
        assert gradient is not None, f"{name} gets no gradient"
        assert torch.isfinite(gradient).all(), f"{name}: not finite"
        # A shift of all keys cancels in the softmax, so this gradient is zero by nature.
        if not name.endswith("k_proj.bias"):
            assert gradient.abs().max() > 0, f"the gradient of {name} is zero"
    model.requires_grad_(True)
    unreachable = {name for name, gradient in gradients(model, batch).items() if gradient is None}
    assert unreachable == frozen, "frozen: exactly the parameters that no loss can reach"


def check_float64(case: DesignCase) -> None:
    """No step refuses float64, in inference or in training, and the logits are those of float32."""
    model, batch = case.make_model(), case.make_batch(MIXED)
    expected = logits_of(model, batch)
    model.double()
    found = logits_of(model, batch)
    assert found.dtype == torch.float64
    assert_same(found, expected, "float64")
    assert_moved(logits_of(model, collate(with_other_media(case.make_rows(MIXED)))), found, case, "other media")
    assert {gradient.dtype for gradient in gradients(model, batch).values() if gradient is not None} == {torch.float64}


def check_gradient_checkpointing(case: DesignCase, use_reentrant: bool) -> None:
    """Recomputing activations in the backward pass gives the gradients of storing them."""
    model, batch = case.make_model(), case.make_batch(MIXED)
    expected = gradients(model, batch)
    plain_calls = forward_calls(model, batch)
    enable_checkpointing(model, {"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    found = gradients(model, batch)
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, f"{name} got a gradient"
            continue
        scale = max(1.0, gradient.abs().max().item())
        assert found[name] is not None, f"{name} lost its gradient"
        assert_same(found[name] / scale, gradient / scale, f"gradient of {name}")
    for part, calls in forward_calls(model, batch).items():
        assert calls > plain_calls[part], f"{part}: nothing was recomputed, checkpointing is off"


def forward_calls(model: PreTrainedModel, batch: dict[str, Any]) -> dict[str, int]:
    """How often the first MLP of either tower is entered in one training step."""
    calls: dict[str, int] = {}
    hooks = []
    for part in ("vision_tower", "language_model"):
        tower = getattr(model.base_model, part)
        module = next(module for name, module in tower.named_modules() if name.endswith(".mlp"))
        calls[part] = 0

        def count(*_: Any, part: str = part) -> None:
            calls[part] += 1

        # Before, not after: a recomputation ends as soon as it has the last tensor that was asked for.
        hooks.append(module.register_forward_pre_hook(count))
    gradients(model, batch)
    for hook in hooks:
        hook.remove()
    return calls


def check_attention_implementations(case: DesignCase) -> None:
    """Eager attention and torch's fused attention agree, in every tower that has both."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    batch = collate(rows, "left")
    mask = batch["attention_mask"].bool()
    towers = {"vision_config": model.base_model.vision_tower, "text_config": model.base_model.language_model}
    if case.hears:
        towers["audio_config"] = model.base_model.audio_tower
    # Newer releases refuse the fused kernel to families with soft-capped attention.
    wanted = {name: "sdpa" if tower._supports_sdpa else "eager" for name, tower in towers.items()}
    assert "sdpa" in wanted.values()
    results = []
    for implementations in (dict.fromkeys(towers, "eager"), wanted):
        model.set_attn_implementation(implementations)
        assert {name: tower.config._attn_implementation for name, tower in towers.items()} == implementations
        results.append(logits_of(model, batch)[mask])
    assert_same(*results, "eager and sdpa")
    assert not torch.equal(*results), "the same kernel ran twice"
    assert_sees_media(model, rows, case)


def check_device_map(case: DesignCase, folder: Path, device_map: Any, **kwargs: Any) -> None:
    """Weights that are partly on disk give the logits of weights in memory."""
    model, batch = case.make_model(), case.make_batch(MIXED)
    expected = logits_of(model, batch)
    model.save_pretrained(folder / "checkpoint")
    if isinstance(device_map, dict):
        # Whatever a design has besides.
        others = {f"model.{name}": "disk" for name, _ in model.base_model.named_children()}
        device_map = {**others, **device_map}
    if case.hears and isinstance(device_map, dict):
        ears = {"model.audio_tower": "disk", "model.audio_projector": "cpu"}
        device_map = {**device_map, **ears}
    split = type(model).from_pretrained(
        folder / "checkpoint", device_map=device_map, offload_folder=folder / "offload", **kwargs
    )
    places = set(split.hf_device_map.values())
    assert {str(place) for place in places} == {"cpu", "disk"}, f"not split: {split.hf_device_map}"
    assert any(parameter.is_meta for parameter in split.parameters()), "nothing was offloaded"
    assert_same(logits_of(split, batch), expected, "split model")
    found = step_logits(split, case.make_batch(MIXED, padding_side="left"))
    assert_same(found, step_logits(model, case.make_batch(MIXED, padding_side="left")), "generation of a split model")


def few_layers(case: DesignCase) -> dict[str, Any]:
    """Towers with as few layers as a design can have. A compiler takes as long for each layer, and all are alike."""
    shallow = {}
    for tower, count in (("vision_config", 2), ("text_config", case.config.get("num_insertions") or 1)):
        if tower in case.config:
            name = "n_layer" if "n_layer" in case.config[tower] else "num_hidden_layers"
            shallow[tower] = {**case.config[tower], name: count}
    return shallow


def check_compile(case: DesignCase, backend: str, fullgraph: bool, encoded: bool = False) -> None:
    """A compiled forward gives the logits of the plain one, for changing media."""
    rows = case.make_rows([["v3", "i"], ["v3"]] if fullgraph else [["v3"], ["v2"]])
    model = case.make_model(**few_layers(case))
    # The hooks with which transformers collects hidden states are set behind a lock, in the first call.
    logits_of(model, collate(rows))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    results = []
    for current in (rows, with_other_media(rows)):
        batch = collate(current)
        if encoded:
            text, media = media_outputs(model, batch)
            batch = {**text, **media}
        elif fullgraph:
            # Frame counts are data. Leaving them out says that all videos have the same, and keeps the graph whole.
            batch.pop("num_video_frames")
            batch.pop("input_features_mask", None)
        results.append(logits_of(compiled, batch))
        assert_same(results[-1], logits_of(model, batch), f"compiled with {backend}")
    assert_moved(*results, case, "other media, same graph")


def check_encoded_media(case: DesignCase) -> None:
    """Encoded media in place of pixels change nothing, in a forward and in generation."""
    model, rows = case.make_model(), case.make_rows(MIXED)
    batch = collate(rows, "left")
    text, media = media_outputs(model, batch)
    assert not set(MEDIA_KEYS) & set(text)
    mask = batch["attention_mask"].bool()
    assert_same(logits_of(model, {**text, **media})[mask], logits_of(model, batch)[mask], "encoded media")
    for use_cache in (True, False):
        found = step_logits(model, {**text, **media_outputs(model, batch)[1]}, use_cache=use_cache)
        assert_same(found, step_logits(model, batch), f"encoded media in generation, use_cache={use_cache}")
    _, others = media_outputs(model, collate(with_other_media(rows), "left"))
    assert_moved(logits_of(model, {**text, **others})[mask], logits_of(model, batch)[mask], case, "other media")


def check_inputs_embeds(case: DesignCase) -> None:
    """Embeddings in place of ids change nothing, in a forward and in generation with several sequences."""
    model, rows = case.make_model(), case.make_rows(ROW_LAYOUTS["2-2-2"])
    batch = collate(rows, "left")
    mask = batch["attention_mask"].bool()
    embedded = dict(batch)
    with torch.no_grad():
        embedded["inputs_embeds"] = model.get_input_embeddings()(embedded.pop("input_ids"))
    expected = logits_of(model, batch)
    assert_same(logits_of(model, embedded)[mask], expected[mask], "inputs_embeds")
    assert_same(step_logits(model, embedded), step_logits(model, batch), "generation from inputs_embeds")
    beams = {"num_beams": 2, "num_return_sequences": 2}
    assert_same(step_logits(model, embedded, **beams), step_logits(model, batch, **beams), "beams from inputs_embeds")
    other = logits_of(model, {**collate(with_other_media(rows), "left")})
    assert_moved(other[mask], expected[mask], case, "other media")


def check_logits_to_keep(case: DesignCase) -> None:
    """Fewer logits are the same logits."""
    model, batch = case.make_model(), case.make_batch([["v3"], ["v2"]], padding_side="left")
    everything = logits_of(model, batch)
    assert everything.shape == (*batch["input_ids"].shape, VOCAB_SIZE)
    assert_same(logits_of(model, batch, logits_to_keep=1), everything[:, -1:], "last position")
    assert_same(logits_of(model, batch, logits_to_keep=3), everything[:, -3:], "last three positions")
    chosen = torch.tensor([2, 5, 7])
    assert_same(logits_of(model, batch, logits_to_keep=chosen), everything[:, chosen], "chosen positions")
    assert_moved(everything[:, -1], everything[:, -2], case, "neighbouring positions")
