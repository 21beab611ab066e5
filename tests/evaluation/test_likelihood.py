"""Options are ranked as if each were run alone; the video is encoded once for all questions about it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hf_videollm.evaluation.asking import Ask, Asker, Inputs
from hf_videollm.evaluation.engines import LikelihoodEngine, Outcome
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.likelihood import Continuation, Ranker, Ranking, continuations, normalised
from hf_videollm.evaluation.prompting import Prompt, raw_question
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.synthetic.check import ClipQuestion

every_checkpoint = pytest.mark.parametrize("name", bundled_checkpoints())
OPTIONS = ("white triangle", "green circle", "red", "cyan")
TEXTS = ("Which appeared first, the white triangle or the green circle?", "What color is the shape?", "What color?")


def prepared(pipe: Any, clips: Sequence[ClipQuestion], texts: Sequence[str] = TEXTS) -> list[Inputs]:
    """All questions about the first clip, then all about the second."""
    asker = Asker(pipe.processor, torch.float32).for_thread()
    items = [
        Item(f"{clip.path.stem}-{text}", (Medium(clip.path),), (text,), OPTIONS) for clip in clips for text in texts
    ]
    return [asker.inputs(Ask(item, 0, Prompt(item.question))) for item in items]


@torch.inference_mode()
def one_by_one(pipe: Any, inputs: Inputs, answer: Continuation) -> list[float]:
    """Log-probabilities of the tokens of one answer, from a forward over everything."""
    row = dict(inputs.row)
    length = row["input_ids"].shape[1] - answer.dropped
    for key in pipe.processor.PROMPT_KEYS:
        if key in row:
            row[key] = F.pad(row[key][:, :length], (0, len(answer.tokens)), value=int(key == "attention_mask"))
    row["input_ids"][0, length:] = torch.tensor(answer.tokens)
    logits = pipe.model(**row).logits[0].float().log_softmax(-1)
    return [float(logits[length - 1 + place, token]) for place, token in enumerate(answer.tokens)]


@contextmanager
def counted_frames(pipe: Any) -> Iterator[list[int]]:
    """How many calls of the vision tower there were, and of how many frames."""
    base = pipe.model.base_model
    tower = base.vision_tower if hasattr(base, "vision_tower") else base.backbone.vision_tower
    calls: list[int] = []
    hook = tower.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


@every_checkpoint
def test_shared_prompts_give_what_single_runs_give(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    pipe = bundled_pipe(name)
    rows = prepared(pipe, questions[:2])
    ranker = Ranker(pipe.model, pipe.processor, "sum")
    with counted_frames(pipe) as shared:
        found = [ranker.token_scores(inputs, continuations(pipe.processor, inputs, OPTIONS)) for inputs in rows]
    with counted_frames(pipe) as single:
        expected = [
            [one_by_one(pipe, inputs, answer) for answer in continuations(pipe.processor, inputs, OPTIONS)]
            for inputs in rows
        ]
    flat = [torch.tensor([value for row in table for each in row for value in each]) for table in (found, expected)]
    torch.testing.assert_close(*flat, rtol=1e-5, atol=1e-5)
    # Two videos; the control runs each of the 24 options by itself.
    assert len(shared) * 12 == len(single)
    assert sum(shared) * 12 == sum(single)
    assert ranker.kept.num_encoded == 2


@pytest.mark.parametrize(("name", "shares_prefill"), [("pllava-tiny", True), ("iva-tiny", True), ("linvt-tiny", False)])
def test_questions_on_one_video_share_its_run_through_the_language_model(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str, shares_prefill: bool
) -> None:
    """LinVT makes visual tokens for each question, so there only the options of one question share them."""
    pipe = bundled_pipe(name)
    first, second = prepared(pipe, questions[:1])[:2]
    ranker = Ranker(pipe.model, pipe.processor)
    ranker.scores(first)
    before = ranker.kept.num_tokens_run
    ranker.scores(second)
    prompt = second.row["input_ids"].shape[1]
    types = second.row["mm_token_type_ids"][0]
    without_video = prompt - int(types.nonzero().max()) - 1
    run = ranker.kept.num_tokens_run - before
    options = sum(len(answer.tokens) - 1 for answer in continuations(pipe.processor, second, OPTIONS))
    assert run <= without_video + options if shares_prefill else prompt <= run <= prompt + options


def test_a_cache_that_cannot_be_cut_back_shares_the_encoding(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    rows = prepared(pipe, questions[:1])
    plain = Ranker(pipe.model, pipe.processor)
    expected = [plain.scores(inputs) for inputs in rows]
    monkeypatch.setattr("hf_videollm.models.video_llm_kept_cache.why_not_croppable", lambda cache: "RecurrentLayer")
    ranker = Ranker(pipe.model, pipe.processor)
    found = [ranker.scores(inputs) for inputs in rows]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert ranker.kept.num_encoded == 1
    # Only a text that goes on where the cache ends keeps tokens.
    assert ranker.kept.num_tokens_kept < plain.kept.num_tokens_kept / 2
    assert ranker.kept.num_tokens_run > plain.kept.num_tokens_run


def test_another_video_between_is_encoded_anew(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    one, other = prepared(pipe, questions[:2], TEXTS[:1])
    ranker = Ranker(pipe.model, pipe.processor)
    scores = [ranker.scores(inputs) for inputs in (one, other, one)]
    assert ranker.kept.num_encoded == 3
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-2)


@every_checkpoint
def test_the_likeliest_option_is_what_the_model_answers(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    if name == "iva-tiny":
        pytest.skip("it knows long videos, not these clips")
    pipe = bundled_pipe(name)
    colours = ("red", "green", "blue", "yellow", "white", "cyan", "magenta", "orange")
    asker = Asker(pipe.processor, torch.float32).for_thread()
    clips = [clip for clip in questions if clip.question.kind == "colour" and clip.question.answer in colours]
    assert len(clips) >= 3
    ranker = Ranker(pipe.model, pipe.processor, "mean")
    for clip in clips:
        item = Item("1", (Medium(clip.path),), (clip.question.question,), colours)
        scores = ranker.scores(asker.inputs(Ask(item, 0, Prompt(item.question))))
        right = colours[scores.index(max(scores))] == clip.question.answer
        assert right or name == "linvt-tiny", (clip, scores)


def test_rankings_differ_in_what_they_compare(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    inputs = prepared(pipe, questions[:1])[0]
    answers = continuations(pipe.processor, inputs, OPTIONS)
    ranker = Ranker(pipe.model, pipe.processor)
    by_token = ranker.token_scores(inputs, answers)
    assert [len(row) for row in by_token] == [2, 2, 1, 1]
    sums = Ranker(pipe.model, pipe.processor, "sum").scores(inputs)
    means = Ranker(pipe.model, pipe.processor, "mean").scores(inputs)
    assert sums == pytest.approx([sum(row) for row in by_token], abs=1e-5)
    assert means == pytest.approx([sum(row) / len(row) for row in by_token], abs=1e-5)
    # The tokenizer of the small model knows no letters; these words stand for them.
    words = ("white", "green", "red", "cyan")
    monkeypatch.setattr("hf_videollm.evaluation.likelihood.letter_of", words.__getitem__)
    letters = Ranker(pipe.model, pipe.processor, "letters").scores(inputs)
    assert letters == pytest.approx(
        [one_by_one(pipe, inputs, answer)[0] for answer in continuations(pipe.processor, inputs, words)], abs=1e-5
    )


def test_probabilities_of_the_options() -> None:
    assert normalised([-1000.0, -1001.0]) == pytest.approx([0.731, 0.269], abs=1e-3)
    assert sum(normalised([-3.0, -1.0, -2.0])) == pytest.approx(1)


def test_answers_begin_as_the_chat_template_begins_them(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    (inputs,) = prepared(pipe, questions[:1], TEXTS[:1])
    tokenizer = pipe.processor.tokenizer
    assert inputs.rendered.endswith("ASSISTANT:")
    (answer,) = continuations(pipe.processor, inputs, ["red"])
    assert answer.tokens == tuple(tokenizer(" red", add_special_tokens=False)["input_ids"])
    # Behind a beginning of the answer that the prompt gives, no blank is written.
    prompt = Prompt(TEXTS[0], answer_prefix="Best option:(")
    prefilled = Inputs(Ask(inputs.ask.item, 0, prompt), inputs.row, inputs.rendered + "Best option:(", [])
    assert continuations(pipe.processor, prefilled, ["A"])[0].dropped == 0
    with pytest.raises(ValueError, match="has no tokens to compare"):
        continuations(pipe.processor, prefilled, [""])


class JoiningTokenizer:
    """Joins a colon and the letter behind it into one token."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        ids, index = [], 0
        while index < len(text):
            size = 2 if text[index] == ":" and index + 1 < len(text) else 1
            ids.append(sum(map(ord, text[index : index + size])) * (1000 if size == 2 else 1))
            index += size
        return {"input_ids": ids}


def test_a_token_that_prompt_and_answer_share_belongs_to_the_answer() -> None:
    item = Item("1", (Medium(Path("x")),), ("Who?",), ("A", "B"))
    inputs = Inputs(Ask(item, 0, Prompt("", answer_prefix=":")), {}, "ab:", [])
    processor = type("Processor", (), {"tokenizer": JoiningTokenizer()})()
    (answer,) = continuations(processor, inputs, ["AB"])
    assert answer.dropped == 1
    assert len(answer.tokens) == 2


def test_what_cannot_be_ranked_is_told(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]) -> None:
    pipe = bundled_pipe("pllava-tiny")
    with pytest.raises(ValueError, match="There is no ranking 'meen': did you mean mean"):
        Ranker(pipe.model, pipe.processor, "meen")  # type: ignore[arg-type]
    item = Item("1", (Medium(questions[0].path),), ("What?",))
    inputs = Asker(pipe.processor).for_thread().inputs(Ask(item, 0, raw_question(item, "What?")))
    with pytest.raises(ValueError, match="has no options to compare"):
        Ranker(pipe.model, pipe.processor).scores(inputs)


@every_checkpoint
def test_options_that_cannot_be_told_apart_are_not_chosen(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    pipe = bundled_pipe(name)
    clip = (Medium(questions[0].path),)

    def outcome(options: tuple[str, ...], ranking: Ranking) -> Outcome:
        item = Item("i", clip, ("What color is the shape?",), options)
        inputs = Asker(pipe.processor, torch.float32).for_thread().inputs(Ask(item, 0, Prompt(item.question)))
        (found,) = LikelihoodEngine(Ranker(pipe.model, pipe.processor, ranking)).outcomes([inputs])
        return found

    likeliest = outcome(("white", "green", "red", "cyan"), "mean").answer
    twice = outcome((likeliest, "orange", likeliest), "mean")
    assert (twice.answer, twice.facts["choice"], twice.facts["tied"]) == ("", None, [0, 2])
    # Control: equal options that are not the likeliest leave the choice alone.
    others = outcome((likeliest, "orange", "orange"), "mean")
    assert (others.answer, others.facts["choice"]) == (likeliest, 0)
    # The tokenizers of the small models know no letters.
    letters = outcome(("white", "green"), "letters")
    assert "so they cannot be compared: take the ranking mean or sum" in str(letters.error)
