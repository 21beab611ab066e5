"""Sessions under threads, after errors and stops, near the end of the context, and with wrong arguments."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import DynamicCache, StaticCache

import hf_videollm
from hf_videollm import VideoSession, VideoTextToTextPipeline

QUESTIONS = ["What colour is the shape?", "What shape is it?", "In which direction does the shape move?"]
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


@pytest.fixture(scope="module")
def pipe() -> VideoTextToTextPipeline:
    return hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def expected(pipe: Any, clips: list[str]) -> list[list[str]]:
    """The answers about each of two videos."""
    return [pipe.open(clip).ask(QUESTIONS, **GREEDY) for clip in clips[:2]]


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """What each job returned or raised; all begin together."""
    start, found = threading.Barrier(len(jobs)), [None] * len(jobs)

    def run(number: int) -> None:
        start.wait(10)
        try:
            found[number] = jobs[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def attention(pipe: Any) -> Any:
    return pipe.model.base_model.language_model.config._attn_implementation


def test_threads_that_ask_one_session(pipe: Any, clips: list[str], expected: list[list[str]]) -> None:
    session = pipe.open(clips[0])

    def job(first: int) -> list[bool]:
        numbers = [(first + step) % 3 for step in range(3)]
        return [session.ask(QUESTIONS[number], **GREEDY) == expected[0][number] for number in numbers]

    assert in_threads(lambda: job(0), lambda: job(1), lambda: session.ask(QUESTIONS, **GREEDY)) == [
        [True] * 3,
        [True] * 3,
        expected[0],
    ]
    assert len(session.history) == 2


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_threads_that_share_a_model(pipe: Any, clips: list[str], expected: list[list[str]], name: str) -> None:
    """Batches of two sessions and of the pipeline change how the model attends, and single questions run meanwhile."""
    language_model = pipe.model.base_model.language_model
    language_model.set_attn_implementation(name)
    try:
        sessions = [pipe.open(clip) for clip in clips[:2]]

        def listed() -> list[str]:
            found = pipe(clips[1], text=QUESTIONS, return_full_text=False, **GREEDY)
            return [answer[0]["generated_text"].strip() for answer in found]

        for _ in range(2):
            assert in_threads(
                lambda: sessions[0].ask(QUESTIONS, **GREEDY),
                lambda: sessions[1].ask(QUESTIONS, **GREEDY),
                listed,
                lambda: [pipe.open(clips[0]).ask(question, **GREEDY) for question in QUESTIONS[:1]],
            ) == [expected[0], expected[1], expected[1], expected[0][:1]]
            assert attention(pipe) == name
        assert not any(session.open_answers().copies_prefix for session in [*sessions, pipe.open(clips[0])])

        def fail(ids: Any, scores: Any) -> Any:
            raise RuntimeError("out of memory")

        assert isinstance(
            in_threads(lambda: pipe(clips[0], text=QUESTIONS, prefix_allowed_tokens_fn=fail))[0], Exception
        )
        assert attention(pipe) == name
    finally:
        language_model.set_attn_implementation("sdpa")


def test_an_answer_cannot_ask_its_own_session(pipe: Any, clips: list[str], expected: list[list[str]]) -> None:
    session = pipe.open(clips[0])

    def ask(ids: Any, scores: Any) -> Any:
        return session.ask(QUESTIONS[1])

    for stream in (False, True):
        with pytest.raises(ValueError, match="still answering"):
            "".join(session.ask(QUESTIONS[0], stream=stream, logits_processor=[ask]))
    assert session.ask(QUESTIONS[0], **GREEDY) == expected[0][0]


def test_streams_that_have_ended(pipe: Any, clips: list[str], expected: list[list[str]]) -> None:
    """They end again, in every thread, and a closed stream has no further pieces."""
    session = pipe.open(clips[0])
    stream = session.ask(QUESTIONS[0], stream=True, **GREEDY)
    pieces = in_threads(lambda: list(stream), lambda: list(stream))
    assert sum(len("".join(part)) for part in pieces) >= len(expected[0][0])
    assert in_threads(lambda: next(stream, "over"), lambda: list(stream)) == ["over", []]
    closed = session.ask(QUESTIONS[0], stream=True, **GREEDY)
    next(closed)
    closed.close()
    assert list(closed) == []
    assert session.history == [QUESTIONS[0], expected[0][0]]


def test_what_is_kept_after_a_stop_or_an_error(pipe: Any, clips: list[str], expected: list[list[str]]) -> None:
    """The next question costs its own tokens, on both kinds of caches; also after an error inside of the model."""
    config = pipe.model.config.get_text_config(decoder=True)
    layers = pipe.model.base_model.language_model.layers

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    for cache in (None, StaticCache(config=config, max_cache_len=400)):
        session = pipe.open(clips[0], cache=cache)
        kept = session.open_answers().kept

        def cost(session: Any = session, kept: Any = kept) -> int:
            runs = []
            hook = pipe.model.get_decoder().register_forward_pre_hook(
                lambda _, args, given: runs.append(given["inputs_embeds"].shape[1]), with_kwargs=True
            )
            assert session.ask(QUESTIONS[0], **GREEDY) == expected[0][0]
            hook.remove()
            return sum(runs)

        usual = cost() + 20
        stream = session.ask(QUESTIONS[1], stream=True, do_sample=False, min_new_tokens=50, max_new_tokens=50)
        next(stream)
        stream.close()
        assert cost() <= usual
        for stage in ({"logits_processor": [fail]}, {}):
            hook = layers[1].register_forward_pre_hook(fail) if not stage else None
            with pytest.raises(RuntimeError, match="out of memory"):
                session.ask(QUESTIONS[2], **stage)
            if hook is not None:
                hook.remove()
            assert cost() <= usual
        # Control: without the kept tokens, the language model reads the media again.
        kept.kept.forget()
        assert cost() > session.num_media_tokens > usual


def test_closing_after_an_error(pipe: Any, clips: list[str]) -> None:
    def fail(ids: Any, scores: Any) -> Any:
        raise RuntimeError("out of memory")

    with pytest.warns(UserWarning, match="has failed: out of memory"), pipe.open(clips[0]) as session:
        session.ask(QUESTIONS[0], stream=True, logits_processor=[fail])
    assert session.is_closed


def test_answers_end_with_the_context(pipe: Any, clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    session = pipe.open(clips[0])
    length = len(session.write(QUESTIONS[0]).ids)
    monkeypatch.setattr(pipe.model.config.get_text_config(decoder=True), "max_position_embeddings", length + 5)
    for name, value in (("max_new_tokens", 6), ("min_new_tokens", 6), ("max_length", length + 6)):
        with pytest.raises(ValueError, match=rf"{name}={value}: 5 of the model's .* lower {name}") as caught:
            session.ask(QUESTIONS[0], **{"do_sample": False, name: value})
        assert "\n" not in str(caught.value)
    # Options that were not given for this question end with the context.
    options = {"do_sample": False, "min_new_tokens": 5}
    assert len(session.generate([QUESTIONS[0]], **options)[0]) == 5
    session.answer_options["max_new_tokens"] = 100
    assert len(session.generate([QUESTIONS[0]], **options)[0]) == 5


def test_one_line_for_each_wrong_argument(pipe: Any, clips: list[str]) -> None:
    session = pipe.open(clips[0])
    question = QUESTIONS[0]
    mistakes: dict[str, Callable[[], Any]] = {
        "list of texts, not NoneType": lambda: session.ask(None),
        "list of texts, not int: 123": lambda: session.ask(123),
        "list of texts, not bytes": lambda: session.ask(b"x"),
        "not a chat message": lambda: session.ask({"role": "user", "content": question}),
        "not a chat message: pass": lambda: session.ask([{"role": "user", "content": question}]),
        "of texts, not NoneType: None": lambda: session.ask([question, None]),
        "of texts, not list": lambda: session.ask([[question]]),
        "The question is empty": lambda: session.ask(["", question]),
        "batch_size=0: give": lambda: session.ask(QUESTIONS, batch_size=0),
        "batch_size=-1: give": lambda: session.ask(QUESTIONS, batch_size=-1),
        "batch_size='2': give": lambda: session.ask(QUESTIONS, batch_size="2"),
        "batch_size=-2: give": lambda: pipe(clips[0], text=QUESTIONS, batch_size=-2),
        "batch_size=0: give a": lambda: pipe(clips[0], text=QUESTIONS, batch_size=0),
        "num_beams=0: give": lambda: session.ask(question, num_beams=0),
        "num_beams=0: give a": lambda: pipe(clips[0], text=QUESTIONS, num_beams=0),
        "follow_up='no': pass": lambda: session.ask(question, follow_up="no"),
        "follow_up=1: pass": lambda: session.generate([question], follow_up=1),
        "stream=1: pass": lambda: session.ask(question, stream=1),
        "cache is 'static': pass": lambda: pipe.open(clips[0], cache="static"),
        "cache is the class StaticCache": lambda: pipe.open(clips[0], cache=StaticCache),
        "cache holds tokens already": lambda: pipe.open(clips[0], cache=session.open_answers().kept.kept.cache),
        "cache_implementation: a session has one": lambda: pipe.open(clips[0], cache_implementation="static"),
        "return_full_text belongs to": lambda: pipe.open(clips[0], return_full_text=False),
        "batch_size belongs to": lambda: pipe.open(clips[0], batch_size=2),
        "VideoSession has no option 'foo'": lambda: VideoSession(
            pipe.model, pipe.processor, clips[0], answer_options={"foo": 1}
        ),
        "num_beams=0: give a positive": lambda: pipe.open(clips[0], num_beams=0),
        "penalty_alpha": lambda: pipe.open(clips[0], penalty_alpha=0.6),
        # Before the media are read.
        "no longer implements penalty_alpha": lambda: pipe.open("absent.mp4", penalty_alpha=0.6),
        "VideoSession has no option 'foo': leave": lambda: VideoSession(
            pipe.model, pipe.processor, "absent.mp4", answer_options={"foo": 1}
        ),
        "The memory is 5: pass MediaMemory": lambda: VideoSession(pipe.model, pipe.processor, clips[0], memory=5),
        "max_bytes='2GB': give": lambda: hf_videollm.MediaMemory("2GB"),
        "max_bytes=True: give": lambda: hf_videollm.MediaMemory(True),
    }
    for message, mistake in mistakes.items():
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value)
    assert session.ask(iter(QUESTIONS), **GREEDY) == session.ask(QUESTIONS, **GREEDY)


def test_caches_of_saved_sessions(pipe: Any, clips: list[str], expected: list[list[str]], tmp_path: Path) -> None:
    """`open_saved` refuses what `open` refuses."""
    file = pipe.open(clips[0]).save(tmp_path / "s")
    config = pipe.model.config.get_text_config(decoder=True)

    def opened(cache: Any) -> VideoSession:
        return VideoSession.open_saved(file, pipe.model, pipe.processor, cache=cache)

    sliding, deeper = copy.deepcopy(config), copy.deepcopy(config)
    sliding.sliding_window, sliding.layer_types = 20, ["sliding_attention"] * config.num_hidden_layers
    deeper.num_hidden_layers, deeper.layer_types = config.num_hidden_layers + 1, None
    wrong = {
        "cannot be cut back": lambda: DynamicCache(config=sliding),
        "cache has room for 50": lambda: StaticCache(config=config, max_cache_len=50),
        "layers, and the language model has": lambda: StaticCache(config=deeper, max_cache_len=400),
        "cache is 'static'": lambda: "static",
    }
    for message, cache in wrong.items():
        for way in (opened, lambda given: pipe.open(clips[0], cache=given)):
            with pytest.raises((ValueError, TypeError), match=message) as caught:
                way(cache())
            assert "\n" not in str(caught.value)
    assert opened(StaticCache(config=config, max_cache_len=400)).ask(QUESTIONS, **GREEDY) == expected[0]


def test_a_window_that_is_passed_by_an_answer(pipe: Any, clips: list[str]) -> None:
    """Such a cache still fits when the session opens. A batch never begins with what its layers have left."""
    config = copy.deepcopy(pipe.model.config.get_text_config(decoder=True))
    session = pipe.open(clips[0])
    config.sliding_window = session.num_media_tokens + 20
    config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    expected = session.ask(QUESTIONS, **GREEDY)
    small = pipe.open(clips[0], cache=DynamicCache(config=config))
    assert small.ask(QUESTIONS, **GREEDY) == expected
    small.ask(QUESTIONS[0], do_sample=False, min_new_tokens=20, max_new_tokens=20)
    with pytest.raises(ValueError, match="cannot be cut back"):
        small.ask(QUESTIONS, **GREEDY)
