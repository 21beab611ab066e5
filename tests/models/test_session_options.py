"""Options of `generate` in sessions, in lists of questions and with a memory: the tokens of single fresh calls."""

from typing import Any

import pytest
import torch
from transformers import StaticCache, StoppingCriteria

import hf_videollm
from hf_videollm import MediaMemory, VideoTextToTextPipeline
from hf_videollm.known_models import bundled_checkpoints

QUESTIONS = ["What colour is the shape?", "What shape is it, and what colour does it have at the end?"]
GREEDY = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}


class StopAfter(StoppingCriteria):
    """Ends each answer after some tokens, counted by calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self.calls += 1
        return torch.full((len(input_ids),), self.calls % 3 == 0)


def favour(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scores that depend on the length of the text, padding included."""
    return scores.roll(ids.shape[1] % 7, -1)


def greedy_loop(model: Any, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """A generation loop of a user, which runs the whole prompt and no cache."""
    media = {
        name: kwargs[name] for name in ("pixel_values_videos", "mm_encoder_outputs") if kwargs.get(name) is not None
    }
    for _ in range(3):
        logits = model(input_ids=input_ids, use_cache=False, **media).logits
        input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], 1)
    return input_ids


# Options that read the prompt, make candidates, bring a cache of their own, or are functions of the user.
OPTIONS: dict[str, dict[str, Any]] = {
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "without cache": {"use_cache": False},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "chunks": {"prefill_chunk_size": 3},
    "repetition": {"repetition_penalty": 1.8},
    "no words of the prompt": {"encoder_no_repeat_ngram_size": 1},
    "guidance": {"guidance_scale": 1.5},
    "processor": {"logits_processor": [favour]},
    "criteria": {"min_new_tokens": None, "stopping_criteria": [StopAfter()]},
    "loop": {"custom_generate": greedy_loop},
    "length": {"min_new_tokens": None, "min_length": 145},
}
# What every design gets; the others are tested with one.
OF_ALL = ("prompt lookup", "repetition", "without cache")


@pytest.fixture(scope="module", params=list(bundled_checkpoints()))
def pipe(request: pytest.FixtureRequest) -> VideoTextToTextPipeline:
    return hf_videollm.load_pipeline(request.param, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def one_design() -> VideoTextToTextPipeline:
    return hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")


def answers_of_all_ways(pipe: Any, video: str, options: dict[str, Any]) -> dict[str, Any]:
    """The answers of single calls without a memory, and of everything that keeps media; or the message of an error."""
    how = {**GREEDY, **options}
    of_session = {name: value for name, value in how.items() if name not in ("use_cache", "cache_implementation")}
    session = pipe.open(video)

    def text(records: Any) -> str:
        return str(records[0]["generated_text"]).strip()

    def remembered() -> list[str]:
        pipe.memory = MediaMemory(1 << 30)
        try:
            return [text(pipe(video, text=question, return_full_text=False, **how)) for question in QUESTIONS]
        finally:
            pipe.memory = None

    ways = {
        "fresh": lambda: [text(pipe(video, text=question, return_full_text=False, **how)) for question in QUESTIONS],
        "list": lambda: [text(found) for found in pipe(video, text=QUESTIONS, return_full_text=False, **how)],
        "memory": remembered,
        "session": lambda: [session.ask(question, **of_session) for question in QUESTIONS],
        "batch": lambda: session.ask(QUESTIONS, **of_session),
        "stream": lambda: ["".join(session.ask(question, stream=True, **of_session)) for question in QUESTIONS],
    }
    found = {name: outcome(way) for name, way in ways.items()}
    # Whatever was asked, the kept cache is as good as before.
    kept = session.open_answers().kept.kept
    assert kept.cache is None or len(kept.ids) == kept.cache.get_seq_length()
    found["afterwards"] = session.ask(QUESTIONS, **GREEDY)
    return found


def outcome(way: Any) -> Any:
    try:
        return way()
    except ValueError as error:
        return str(error)


def check(pipe: Any, video: str, options: dict[str, Any]) -> dict[str, Any]:
    found = answers_of_all_ways(pipe, video, options)
    plain = [
        pipe(video, text=question, return_full_text=False, **GREEDY)[0]["generated_text"] for question in QUESTIONS
    ]
    assert found.pop("afterwards") == [answer.strip() for answer in plain]
    expected = found["fresh"]
    for name, answers in found.items():
        assert answers == expected, name
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_options_give_the_tokens_of_single_calls(one_design: Any, clips: list[str], name: str) -> None:
    check(one_design, clips[0], OPTIONS[name])


@pytest.mark.parametrize("name", OF_ALL)
def test_options_in_every_design(pipe: Any, clips: list[str], name: str) -> None:
    if "pllava" not in str(pipe.model.config.model_type):
        check(pipe, clips[0], OPTIONS[name])


def test_an_assistant_sees_the_media(one_design: Any, clips: list[str]) -> None:
    """Lists and a memory take the ordinary way, so a memory breaks no call; a session, which has no pixels, says so."""
    how = {**GREEDY, "assistant_model": one_design.model, "return_full_text": False}
    expected = [one_design(clips[0], text=question, **how) for question in QUESTIONS]
    assert one_design(clips[0], text=QUESTIONS, **how) == expected
    one_design.memory = MediaMemory(1 << 30)
    try:
        assert one_design(clips[0], text=QUESTIONS[0], **how) == expected[0]
    finally:
        one_design.memory = None
    session = one_design.open(clips[0])
    for question in (QUESTIONS[0], QUESTIONS):
        with pytest.raises(ValueError, match="assistant_model has to see the media itself"):
            session.ask(question, assistant_model=one_design.model)
    kept = session.open_answers().inputs([session.write(QUESTIONS[0])], in_place=True)
    with pytest.raises(ValueError, match="the kept cache holds them for the model alone"):
        one_design.model.generate(**kept, assistant_model=one_design.model, **GREEDY)


def test_guesses_behind_a_static_cache(one_design: Any, clips: list[str]) -> None:
    cache = StaticCache(config=one_design.model.config.get_text_config(decoder=True), max_cache_len=320)
    session = one_design.open(clips[0], cache=cache)
    expected = session.ask(QUESTIONS, **GREEDY)
    assert [session.ask(question, prompt_lookup_num_tokens=3, **GREEDY) for question in QUESTIONS] == expected
    assert session.ask(QUESTIONS, **GREEDY) == expected


def test_a_prompt_that_ran_twice_is_noticed(one_design: Any, clips: list[str]) -> None:
    """The check behind every answer: the cache holds no more tokens than the prompt and the answer."""
    session = one_design.open(clips[0])
    expected = session.ask(QUESTIONS[0], **GREEDY)
    answers = session.open_answers()
    with pytest.raises(RuntimeError, match="was run twice"):
        answers.take(torch.tensor(answers.kept.kept.ids[:-1]))
    assert session.ask(QUESTIONS[0], **GREEDY) == expected


def test_returned_tokens_have_no_padding_inside(one_design: Any, clips: list[str]) -> None:
    """Questions of unequal length that share a video are padded between the video and the question."""
    asked = [*QUESTIONS, "Which way?"]

    def tokens(rows: list[dict[str, Any]]) -> list[int]:
        (row,) = rows
        return torch.as_tensor(row["generated_token_ids"]).tolist()

    options = {"return_tensors": True, **GREEDY}
    alone = [tokens(one_design(clips[0], text=text, **options)) for text in asked]
    together = [tokens(rows) for rows in one_design(clips[0], text=asked, **options)]
    assert together == alone
    assert len({len(ids) for ids in alone}) == 3  # the control: they differ in length
