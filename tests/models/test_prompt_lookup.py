"""Assisted decoding never guesses placeholders, and writes the tokens of plain greedy decoding."""

from typing import Any

import pytest
import torch
from every_design import every_design
from factory import AUDIO, IMAGE, QUERY, VIDEO, DesignCase, collate
from generation_by_hand import echoed
from transformers import GenerationMixin, LogitsProcessorList
from transformers.generation import PromptLookupCandidateGenerator

from hf_videollm.models.video_llm_candidates import ForbidPlaceholders, forbid_placeholders
from hf_videollm.models.video_llm_generation import MediaGenerationMixin, VideoLlmGenerationMixin

STEPS = 8
GREEDY = {"do_sample": False, "max_new_tokens": STEPS}
MARKS = torch.tensor([IMAGE, VIDEO, AUDIO, QUERY])
CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static", "disable_compile": True},
}


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Everything that was guessed behind the text so far."""
    guessed: list[torch.Tensor] = []
    make = GenerationMixin._get_candidate_generator

    def recording(self: Any, *args: Any, **kwargs: Any) -> Any:
        generator = make(self, *args, **kwargs)
        propose = generator.get_candidates

        def get_candidates(input_ids: torch.Tensor, **kwargs: Any) -> Any:
            ids, logits = propose(input_ids, **kwargs)
            guessed.append(ids[0, input_ids.shape[1] :])
            return ids, logits

        generator.get_candidates = get_candidates
        return generator

    monkeypatch.setattr(GenerationMixin, "_get_candidate_generator", recording)
    return guessed


def make(case: DesignCase, inside: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model that may write placeholders, and a prompt that ends with the words before its first placeholder.

    `inside`: the placeholders have rows in the vocabulary, as in checkpoints whose tokenizer has tokens for them.
    """
    if case.name.startswith("linvt"):
        pytest.skip("LinVT refuses assisted decoding (test_generation_options.py).")
    text = case.config["text_config"]
    model = case.make_model(**({} if inside else {"text_config": {**text, "vocab_size": IMAGE}}))
    model.generation_config.suppress_tokens = None
    return model, collate([echoed(case.make_rows([["v4"]])[0])])


def holds_placeholders(candidates: list[torch.Tensor]) -> bool:
    return bool(torch.isin(torch.cat(candidates), MARKS).any())


def use_transformers_own(context: pytest.MonkeyPatch) -> None:
    context.delattr(VideoLlmGenerationMixin, "_get_candidate_generator")


@every_design
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_lookup_copies_no_placeholders(
    case: DesignCase, inside: bool, cache: str, candidates: list[torch.Tensor]
) -> None:
    model, batch = make(case, inside)
    # Without IVA's own `generate`, which suppresses placeholders.
    for generate in (type(model).generate, MediaGenerationMixin.generate):
        expected = generate(model, **batch, **GREEDY)
        candidates.clear()
        found = generate(model, **batch, **GREEDY, **CACHES[cache], prompt_lookup_num_tokens=3)
        assert torch.equal(found, expected)
        assert candidates
        assert not holds_placeholders(candidates)


@every_design
def test_without_the_cure_lookup_guesses_placeholders(
    case: DesignCase, candidates: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the same prompt, the lookup of transformers."""
    model, batch = make(case, inside=True)
    use_transformers_own(monkeypatch)
    with pytest.raises(ValueError, match="placeholders"):
        MediaGenerationMixin.generate(model, **batch, **GREEDY, prompt_lookup_num_tokens=3)
    assert holds_placeholders(candidates[:1])
    # Ids outside the vocabulary have no score that the lookup could read.
    model, batch = make(case, inside=False)
    with pytest.raises(IndexError):
        model.generate(**batch, **GREEDY, prompt_lookup_num_tokens=3)


def favour_placeholders(assistant: Any) -> None:
    """Make the assistant write placeholders wherever it may."""

    def raise_score(module: Any, args: Any, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(-1, torch.tensor([VIDEO]), torch.full_like(scores[..., :1], 1e4))

    assistant.lm_head.register_forward_hook(raise_score)


@every_design
@pytest.mark.parametrize("cache", CACHES)
def test_an_assistant_guesses_no_placeholders(
    case: DesignCase, cache: str, candidates: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make(case, inside=True)
    if "assistant_model" in model.refused_options:
        pytest.skip("Refused (test_generation_options.py).")
    assistant = case.make_model(seed=5)
    assistant.generation_config.suppress_tokens = None
    favour_placeholders(assistant)
    options = {**GREEDY, **CACHES[cache], "assistant_model": assistant}
    expected = model.generate(**batch, **GREEDY)
    assert torch.equal(model.generate(**batch, **options), expected)
    assert sum(map(len, candidates)) > 0
    assert not holds_placeholders(candidates)
    # Sampling compares the scores of both models, which must cover the same vocabulary.
    torch.manual_seed(0)
    assert model.generate(**batch, **{**options, "do_sample": True}).shape == expected.shape
    # Control.
    candidates.clear()
    use_transformers_own(monkeypatch)
    with pytest.raises(ValueError, match="placeholders"):
        model.generate(**batch, **options)
    assert holds_placeholders(candidates[:1])


@pytest.mark.parametrize("vocab_size", [120, 100])
def test_lookup_still_guesses_text(vocab_size: int) -> None:
    lookup = PromptLookupCandidateGenerator(
        num_output_tokens=3, max_length=50, logits_processor=LogitsProcessorList(), vocab_size=vocab_size
    )
    own = lookup.logits_processor
    bounded = forbid_placeholders(lookup, [VIDEO, None])
    assert len(own) == 0, "the list belongs to the model that checks the candidates"
    # The first match is followed by a placeholder, the second by two words and a placeholder.
    ids = torch.tensor([[7, 8, VIDEO, 9, 7, 8, 5, 6, VIDEO, 7, 8]])
    assert bounded.get_candidates(ids)[0][:, ids.shape[1] :].tolist() == [[5, 6]]
    # The model adds a token to the candidates. Only one candidate fits before it.
    lookup.max_length = ids.shape[1] + 2
    assert bounded.get_candidates(ids)[0][:, ids.shape[1] :].tolist() == [[5]]
    assert lookup.get_candidates(ids)[0][:, ids.shape[1] :].tolist() == [[5, 6]]


def test_scores_are_not_changed_in_place() -> None:
    scores = torch.ones(1, 4)
    found = ForbidPlaceholders([2, 6])(torch.tensor([[1]]), scores)
    assert found.tolist() == [[1.0, 1.0, float("-inf"), 1.0]]
    assert (scores == 1).all()
