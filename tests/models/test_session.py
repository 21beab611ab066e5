"""Sessions: many questions about media that are watched once, with the answers of fresh runs, for every design."""

import copy
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Cache, DynamicCache, StaticCache

import hf_videollm
from hf_videollm import VideoSession, VideoTextToTextPipeline
from hf_videollm.known_models import bundled_checkpoints

QUESTIONS = [
    "What colour is the shape?",
    "In which direction does the shape move?",
    "What shape is it, and what colour does it have at the end of the video?",
]
# The bundled models answer with one word, so longer answers are asked for: more tokens that can differ.
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


@pytest.fixture(scope="module", params=list(bundled_checkpoints()))
def pipe(request: pytest.FixtureRequest) -> VideoTextToTextPipeline:
    return hf_videollm.load_pipeline(request.param, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def one_design() -> VideoTextToTextPipeline:
    return hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")


def conversation(media: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """Messages that hold the media, and questions and answers by turns."""
    messages: list[dict[str, Any]] = [
        {"role": "assistant" if number % 2 else "user", "content": [{"type": "text", "text": text}]}
        for number, text in enumerate(texts)
    ]
    messages[0]["content"] = [*media, *messages[0]["content"]]
    return messages


def fresh(pipe: Any, media: list[dict[str, Any]], *texts: str, **options: Any) -> list[int]:
    """The ids of an answer of a run that shares nothing with another."""
    row = pipe.processor.apply_chat_template(
        conversation(media, list(texts)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )
    found = pipe.model.generate(**row, **GREEDY)
    return found[0, row["input_ids"].shape[1] :].tolist()


def videos_of(paths: list[str]) -> list[dict[str, Any]]:
    return [{"type": "video", "video": path} for path in paths]


def words(pipe: Any, ids: list[int]) -> str:
    return pipe.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.fixture
def work(pipe: Any) -> Iterator[dict[str, int]]:
    """Frames that went through the vision tower, and tokens that went through the language model."""
    yield from counted(pipe.model)


def counted(model: Any) -> Iterator[dict[str, int]]:
    found = {"frames": 0, "tokens": 0}

    def count_frames(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        pixels = args[0] if args else kwargs["pixel_values"]
        found["frames"] += len(pixels)

    def count_tokens(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found["tokens"] += next(
            kwargs[key].shape[:2].numel() for key in ("inputs_embeds", "input_ids") if kwargs.get(key) is not None
        )

    base = model.base_model
    tower = base.vision_tower if hasattr(base, "vision_tower") else base.backbone.vision_tower
    hooks = [
        tower.register_forward_pre_hook(count_frames, with_kwargs=True),
        model.get_decoder().register_forward_pre_hook(count_tokens, with_kwargs=True),
    ]
    yield found
    for hook in hooks:
        hook.remove()


@functools.cache
def known(pipe: Any, paths: tuple[str, ...], *texts: str) -> tuple[list[int], int]:
    """`fresh` about these videos, run once for all caches; and the frames that it watched."""
    with contextmanager(counted)(pipe.model) as watched:
        return fresh(pipe, videos_of(list(paths)), *texts), watched["frames"]


def caches(pipe: Any) -> dict[str, Cache | None]:
    """Empty caches of each kind that can be cut."""
    config = pipe.model.config.get_text_config(decoder=True)
    return {
        "default": None,
        "dynamic": DynamicCache(),
        "by configuration": DynamicCache(config=config),
        "static": StaticCache(config=config, max_cache_len=640),
    }


@pytest.mark.parametrize("kind", ["default", "dynamic", "by configuration", "static"])
@pytest.mark.parametrize("num_videos", [1, 2])
def test_answers_are_those_of_fresh_runs(pipe: Any, clips: list[str], work: Any, num_videos: int, kind: str) -> None:
    """Single questions in any order, one twice, a batch, a stream, and conversations: equal tokens on every cache."""

    def apart(*texts: str) -> list[int]:
        """The ids of a fresh run, whose work is not counted."""
        before = dict(work)
        ids, _ = known(pipe, tuple(clips[:num_videos]), *texts)
        work.update(before)
        return ids

    expected = [apart(question) for question in QUESTIONS]
    _, frames = known(pipe, tuple(clips[:num_videos]), QUESTIONS[0])
    assert len({tuple(ids) for ids in expected}) > 1
    session = pipe.open(clips[:num_videos], cache=caches(pipe)[kind])
    answers = [words(pipe, ids) for ids in expected]
    for number in (0, 2, 1, 1, 0):
        assert session.ask(QUESTIONS[number], **GREEDY) == answers[number]
        assert session.history == [QUESTIONS[number], answers[number]]
    assert [ids.tolist() for ids in session.generate(QUESTIONS, **GREEDY)] == expected
    assert session.ask(QUESTIONS, **GREEDY) == answers
    for question, answer in zip(QUESTIONS, answers, strict=True):
        assert "".join(session.ask(question, stream=True, **GREEDY)).strip() == answer
    texts = [*session.history, QUESTIONS[0]]
    second = apart(*texts)
    branches = session.generate([QUESTIONS[0], QUESTIONS[1]], follow_up=True, **GREEDY)
    assert branches[0].tolist() == second
    assert session.ask(QUESTIONS[0], follow_up=True, **GREEDY) == words(pipe, second)
    third = apart(*texts, words(pipe, second), QUESTIONS[1])
    assert session.ask(QUESTIONS[1], follow_up=True, **GREEDY) == words(pipe, third)
    assert len(session.history) == 6
    assert work["frames"] == frames > 0


def test_only_the_question_is_run_again(pipe: Any, clips: list[str], work: Any) -> None:
    session = pipe.open(clips[0])
    session.ask(QUESTIONS[0], **GREEDY)
    work.update(frames=0, tokens=0)
    session.ask(QUESTIONS[1], **GREEDY)
    prompt = len(session.write(QUESTIONS[1]).ids)
    assert work["frames"] == 0
    if pipe.model.reads_questions:
        # The visual tokens of LinVT depend on the question.
        assert work["tokens"] == prompt + 5
        work.update(tokens=0)
        session.ask(QUESTIONS[0], follow_up=True, **GREEDY)
    assert work["tokens"] < prompt - session.num_media_tokens + 40


def test_a_list_of_questions_through_the_pipeline(pipe: Any, clips: list[str], work: Any) -> None:
    """The pipeline watches the video once by itself, and returns what single calls return."""
    expected = [pipe(clips[0], text=question, **GREEDY) for question in QUESTIONS]
    frames = work["frames"] // len(QUESTIONS)
    work.update(frames=0)
    assert pipe(clips[0], text=QUESTIONS, **GREEDY) == expected
    assert pipe(clips[0], text=QUESTIONS, batch_size=2, **GREEDY) == expected
    assert work["frames"] == 2 * frames
    new = [pipe(clips[0], text=question, return_full_text=False, **GREEDY) for question in QUESTIONS]
    assert pipe(clips[0], text=QUESTIONS, return_full_text=False, generate_kwargs=dict(GREEDY)) == new
    # Control: videos of their own are watched each.
    work.update(frames=0)
    assert pipe([clips[0]] * 3, text=QUESTIONS, **GREEDY) == expected
    assert work["frames"] == 3 * frames


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"seed": 3}])
def test_beams_and_samples(pipe: Any, clips: list[str], options: dict[str, Any]) -> None:
    how = {"max_new_tokens": 5, "do_sample": "seed" in options, "num_beams": 1, **options}
    seed = how.pop("seed", 0)
    torch.manual_seed(seed)
    expected = [pipe(clips[0], text=question, **how) for question in QUESTIONS]
    torch.manual_seed(seed)
    assert pipe(clips[0], text=QUESTIONS, **how) == expected
    if "num_return_sequences" not in how:
        torch.manual_seed(seed)
        with pipe.open(clips[0]) as session:
            first = session.ask(QUESTIONS[0], **how)
            assert (
                QUESTIONS[0] + first
                == "".join(expected[0][0]["generated_text"].rsplit(" " + first, 0))
                .replace(f"{QUESTIONS[0]} ", QUESTIONS[0], 1)
                .rstrip()
            )
            assert session.ask(QUESTIONS[1:], **how)[0] in expected[1][0]["generated_text"]


def test_images_beside_videos(pipe: Any, clips: list[str]) -> None:
    image = Image.new("RGB", (64, 64), "red")
    media = [*videos_of(clips[:1]), {"type": "image", "image": image}]
    session = pipe.open(clips[0], images=image)
    expected = [fresh(pipe, media, question) for question in QUESTIONS]
    assert [session.ask(question, **GREEDY) for question in QUESTIONS] == [words(pipe, ids) for ids in expected]
    assert [ids.tolist() for ids in session.generate(QUESTIONS, **GREEDY)] == expected
    alone = pipe.open(images=image)
    expected = [fresh(pipe, media[1:], question) for question in QUESTIONS]
    assert [ids.tolist() for ids in alone.generate(QUESTIONS, **GREEDY)] == expected
    assert [alone.ask(question, **GREEDY) for question in QUESTIONS] == [words(pipe, ids) for ids in expected]


def test_options_of_media(pipe: Any, clips: list[str]) -> None:
    session = pipe.open(clips[0], num_frames=4, end=1.0)
    assert [len(frames) for frames in session.frames] == [4]
    expected = fresh(pipe, videos_of(clips[:1]), QUESTIONS[0], num_frames=4, end=1.0)
    assert session.ask(QUESTIONS[0], **GREEDY) == words(pipe, expected)
    if "num_tokens_per_frame" in pipe.media_options():
        session = pipe.open(clips[0], num_tokens_per_frame=1)
        assert session.num_media_tokens < pipe.open(clips[0]).num_media_tokens
        assert session.ask(QUESTIONS, **GREEDY) == [
            pipe(clips[0], text=question, return_full_text=False, num_tokens_per_frame=1, **GREEDY)[0][
                "generated_text"
            ].strip()
            for question in QUESTIONS
        ]


def test_answers_of_another_video_differ(one_design: Any, clips: list[str]) -> None:
    """Control: the equal answers above come from the video."""
    answers = {tuple(one_design.open(clip).ask(QUESTIONS, **GREEDY)) for clip in clips}
    assert len(answers) == len(clips)


def test_a_stream_that_is_stopped(one_design: Any, clips: list[str]) -> None:
    session = one_design.open(clips[0])
    expected = session.ask(QUESTIONS[0], **GREEDY)
    stream = session.ask(QUESTIONS[1], stream=True, do_sample=False, min_new_tokens=200, max_new_tokens=200)
    next(stream)
    with pytest.raises(ValueError, match="still answering"):
        session.ask(QUESTIONS[0])
    stream.close()
    stream.close()
    assert session.history == [QUESTIONS[0], expected]
    assert session.ask(QUESTIONS[0], **GREEDY) == expected


def test_an_error_leaves_a_session_that_answers(one_design: Any, clips: list[str]) -> None:
    session = one_design.open(clips[0])
    expected = session.ask(QUESTIONS[0], **GREEDY)

    def fail(ids: Any, scores: Any) -> Any:
        raise RuntimeError("out of memory")

    for stream in (False, True):
        with pytest.raises(RuntimeError, match="out of memory"):
            "".join(session.ask(QUESTIONS[1], stream=stream, logits_processor=[fail]))
        assert session.ask(QUESTIONS[0], **GREEDY) == expected


def test_a_session_that_is_closed(one_design: Any, clips: list[str]) -> None:
    with one_design.open(clips[0]) as session:
        assert not session.is_closed
    session.close()
    assert session.is_closed
    with pytest.raises(ValueError, match="session is closed: open the video again"):
        session.ask(QUESTIONS[0])


def test_a_model_that_changes_under_a_session(clips: list[str]) -> None:
    """The kept keys and values are those of the old weights."""
    pipe = hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")
    session = pipe.open(clips[0])
    assert session.ask(QUESTIONS[0], **GREEDY)
    with torch.no_grad():
        pipe.model.lm_head.weight[0] += 1
    with pytest.raises(ValueError, match="have changed since the session watched: open it again"):
        session.ask(QUESTIONS[0], **GREEDY)
    assert pipe.open(clips[0]).ask(QUESTIONS[0], **GREEDY)


def test_one_line_for_each_mistake(one_design: Any, clips: list[str]) -> None:
    session = one_design.open(clips[0])
    room = one_design.model.config.get_text_config().max_position_embeddings - session.num_media_tokens
    mistakes: dict[str, Any] = {
        "The question is empty": lambda: session.ask(" "),
        "list of questions is empty": lambda: session.ask([]),
        f"and {room} of the model's .* are left behind the media": lambda: session.ask("why " * 2000),
        "did you mean max_new_tokens": lambda: session.ask("Why?", max_new_token=3),
        "has no option 'cache_implementation'": lambda: session.ask("Why?", cache_implementation="static"),
        "gives one answer": lambda: session.ask("Why?", num_return_sequences=2, do_sample=True),
        "needs one question": lambda: session.ask(["Why?"], stream=True),
        "2 placeholders of media for 1 media": lambda: session.ask("Is <video> here?"),
        "at least one video": lambda: one_design.open(),
        "did you mean num_frames": lambda: one_design.open(clips[0], num_frame=3),
    }
    for message, mistake in mistakes.items():
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value)
    with pytest.raises(hf_videollm.MediaNotFound):
        one_design.open("absent.mp4")


def test_caches_that_cannot_be_cut(one_design: Any, clips: list[str]) -> None:
    config = copy.deepcopy(one_design.model.config.get_text_config(decoder=True))
    config.sliding_window, config.layer_types = 8, ["sliding_attention"] * config.num_hidden_layers
    with pytest.raises(ValueError, match=r"A cache of \w+ cannot be cut back") as caught:
        one_design.open(clips[0], cache=DynamicCache(config=config))
    assert "\n" not in str(caught.value)
    small = StaticCache(config=one_design.model.config.get_text_config(decoder=True), max_cache_len=160)
    session = one_design.open(clips[0], cache=small)
    with pytest.raises(ValueError, match="the cache has room for 160"):
        session.ask(QUESTIONS[0], max_new_tokens=100)
    assert session.ask(QUESTIONS[0], **GREEDY) == one_design.open(clips[0]).ask(QUESTIONS[0], **GREEDY)


def test_a_session_without_a_pipeline(one_design: Any, clips: list[str]) -> None:
    session = VideoSession(one_design.model, one_design.processor, clips[0], answer_options=GREEDY)
    assert session.ask(QUESTIONS[0]) == one_design.open(clips[0], **GREEDY).ask(QUESTIONS[0])
    with pytest.raises(TypeError, match="not a video-language model that can generate"):
        VideoSession(one_design.model.model, one_design.processor, clips[0])


def test_the_model_is_not_run_for_longer_than_the_default(one_design: Any, clips: list[str]) -> None:
    session = one_design.open(clips[0])
    assert (
        session.ask(QUESTIONS[0])
        == one_design(clips[0], text=QUESTIONS[0], return_full_text=False)[0]["generated_text"].strip()
    )


def test_files_are_read_once(one_design: Any, clips: list[str], tmp_path: Path) -> None:
    """The file may vanish as soon as it is watched."""
    video = tmp_path / "clip.mp4"
    video.write_bytes(Path(clips[0]).read_bytes())
    session = one_design.open(str(video))
    video.unlink()
    assert session.ask(QUESTIONS, **GREEDY) == one_design.open(clips[0]).ask(QUESTIONS, **GREEDY)


def test_every_argument_is_explained() -> None:
    for function in (VideoSession.__init__, VideoSession.ask, VideoTextToTextPipeline.open):
        names = [name for name in inspect.signature(function).parameters if name != "self"]
        assert not [name for name in names if f"{name}:" not in str(function.__doc__)], function
