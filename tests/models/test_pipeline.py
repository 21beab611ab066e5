"""The pipeline: every accepted form of input, options, batches, and the structure of what comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from packaging import version
from PIL import Image
from transformers import TextStreamer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_videollm
from hf_videollm import VideoTextToTextPipeline

GREEDY = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 6}}
QUESTION = "What moves?"


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: str) -> VideoTextToTextPipeline:
    """Without a trust flag: the package is imported, so its own class is taken."""
    made = pipeline("video-text-to-text", model=tiny_checkpoint, device="cpu")
    assert type(made) is hf_videollm.VideoTextToTextPipeline
    return made


def chat(video: Any, text: str = QUESTION) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": text}]}]


def answer(result: list[dict[str, Any]]) -> str:
    return result[0]["generated_text"]


def test_one_video_and_a_text(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    result = pipe(clips[0], text=QUESTION, **GREEDY)
    assert list(result[0]) == ["input_text", "generated_text"]
    assert result[0]["input_text"] == QUESTION
    assert answer(result).startswith(QUESTION)
    new_text = answer(pipe(clips[0], text=QUESTION, return_full_text=False, **GREEDY))
    assert answer(result) == QUESTION + new_text


def test_the_video_decides_the_answer(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    """Control of all the equalities below: a model that ignores its video would pass them too."""
    assert len({answer(pipe(clip, text=QUESTION, **GREEDY)) for clip in clips}) > 1


def test_equals_generate_by_hand(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    inputs = pipe.processor.apply_chat_template(
        chat(clips[0]), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    tokens = pipe.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    by_hand = pipe.processor.decode(tokens, skip_special_tokens=True)
    assert answer(pipe(clips[0], text=QUESTION, return_full_text=False, **GREEDY)).strip() == by_hand


def test_a_chat_comes_back_with_the_answer_as_a_message(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    messages = chat(clips[0])
    for result in (pipe(messages, **GREEDY), pipe(text=messages, **GREEDY)):
        assert result[0]["input_text"] == messages
        *asked, said = result[0]["generated_text"]
        assert asked == messages
        assert said["role"] == "assistant"
        assert said["content"] == answer(pipe(clips[0], text=QUESTION, return_full_text=False, **GREEDY))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_lists_and_batches_equal_single_calls(pipe: VideoTextToTextPipeline, clips: list[str], batch_size: int) -> None:
    """Prompts of different lengths, so rows are padded."""
    texts = ["What?", "What moves here, and where to?", "How many?"]
    alone = [pipe(clip, text=text, **GREEDY) for clip, text in zip(clips, texts, strict=True)]
    assert pipe(clips, text=texts, batch_size=batch_size, **GREEDY) == alone
    samples = [{"video": clip, "text": text} for clip, text in zip(clips, texts, strict=True)]
    assert pipe(samples, batch_size=batch_size, **GREEDY) == alone
    chats = [chat(clip, text) for clip, text in zip(clips, texts, strict=True)]
    single_chats = [pipe(messages, **GREEDY) for messages in chats]
    assert pipe(chats, batch_size=batch_size, **GREEDY) == single_chats
    assert pipe(text=chats, batch_size=batch_size, **GREEDY) == single_chats


def test_a_batch_may_mix_rows_with_and_without_videos(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    samples = [
        {"videos": [clips[0], clips[1]], "text": "Which?"},
        {"text": "Hello there"},
        {"videos": clips[2], "text": "What?"},
    ]
    alone = [pipe(sample, **GREEDY) for sample in samples]
    assert pipe(samples, batch_size=3, **GREEDY) == alone


def test_several_videos_for_one_text(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    both = pipe(clips[:2], text="Which?", **GREEDY)
    assert len(both) == 1
    assert both == pipe({"videos": clips[:2], "question": "Which?"}, **GREEDY)
    nested = pipe([clips[:2], [clips[2]]], text=["Which?", "Which?"], **GREEDY)
    assert nested[0] == both
    # Beams with two videos in a row are where a wrong repetition of the media would show.
    beams = {"generate_kwargs": {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}}
    # Older releases of the image-text-to-text pipeline give one result, whatever num_return_sequences says.
    expected = 2 if version.parse(transformers.__version__) >= version.parse("5.23") else 1
    assert len(pipe(clips[:2], text="Which?", **beams)) == expected
    assert pipe([clips[:2], [clips[2]]], text=["Which?", "Which?"], batch_size=2, **beams)[0] == pipe(
        clips[:2], text="Which?", **beams
    )


def test_generator_and_datasets_stream(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    rows = [{"video": clip, "text": QUESTION} for clip in clips]
    expected = [pipe(row, **GREEDY) for row in rows]
    from_generator = pipe((row for row in rows), batch_size=2, **GREEDY)
    assert isinstance(from_generator, Iterator)
    assert list(from_generator) == expected
    dataset = datasets.Dataset.from_list(rows)
    assert list(pipe(dataset, batch_size=2, **GREEDY)) == expected
    assert list(pipe(dataset.to_iterable_dataset(), **GREEDY)) == expected
    chats = datasets.Dataset.from_list([{"messages": chat(clip)} for clip in clips])
    answers = [row[0]["generated_text"][-1]["content"] for row in pipe(chats, **GREEDY)]
    new_texts = [pipe(row, return_full_text=False, **GREEDY) for row in rows]
    assert answers == [answer(row) for row in new_texts]
    # The usual way to pick a column of a dataset.
    by_column = [row[0]["generated_text"][-1]["content"] for row in pipe(KeyDataset(chats, "messages"), **GREEDY)]
    assert by_column == answers


def test_video_column_of_a_dataset_holds_bytes(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    rows = {"video": clips, "text": [QUESTION] * len(clips)}
    dataset = datasets.Dataset.from_dict(rows).cast_column("video", datasets.Video(decode=False))
    assert list(pipe(dataset, **GREEDY)) == [pipe(clip, text=QUESTION, **GREEDY) for clip in clips]


def test_bytes_and_frames(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    expected = pipe(clips[0], text=QUESTION, **GREEDY)
    with open(clips[0], "rb") as file:
        assert pipe(file.read(), text=QUESTION, **GREEDY) == expected
    frames, _ = hf_videollm.load_video(clips[0])
    assert pipe(frames, text=QUESTION, **GREEDY) == expected
    assert pipe([list(frames)], text=[QUESTION], **GREEDY) == [expected]


def test_raw_prompt_with_placeholder_is_left_alone(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    raw = "USER: <video>\n What moves? ASSISTANT:"
    result = pipe(clips[0], text=raw, **GREEDY)
    new_text = answer(pipe(clips[0], text=QUESTION, return_full_text=False, **GREEDY))
    assert answer(result) == raw + new_text
    # The original's prompts say <image> where a video comes.
    assert answer(pipe(clips[0], text=raw.replace("<video>", "<image>"), return_full_text=False, **GREEDY)) == new_text


def test_video_options_reach_the_processor(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    def rows(**options: Any) -> Any:
        preprocess, _, _ = pipe._sanitize_parameters(**options)
        return pipe.preprocess({"videos": clips[0], "text": QUESTION}, **preprocess)["row"]

    assert rows()["num_video_frames"].tolist() == [4]
    assert rows(num_frames=2)["num_video_frames"].tolist() == [2]
    assert rows(processor_kwargs={"num_frames": 2})["num_video_frames"].tolist() == [2]
    late = rows(start=1.0, end=2.0)["pixel_values_videos"]
    assert (late - rows()["pixel_values_videos"]).abs().max() > 0.1
    assert pipe(clips[0], text=QUESTION, num_frames=1, **GREEDY) != pipe(clips[0], text=QUESTION, **GREEDY)


def test_prefilled_answer_is_continued(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    messages = [*chat(clips[0]), {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    said = pipe(messages, **GREEDY)[0]["generated_text"][-1]
    assert said["role"] == "assistant"
    assert said["content"][0]["text"].startswith("It is")


def test_streamer_and_max_new_tokens(
    pipe: VideoTextToTextPipeline, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    streamer = TextStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    result = pipe(clips[0], text=QUESTION, return_full_text=False, streamer=streamer, max_new_tokens=5)
    assert capsys.readouterr().out.strip() == answer(result).strip()


def test_return_tensors(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    result = pipe(clips[0], text=QUESTION, return_tensors=True, **GREEDY)
    assert isinstance(result[0]["generated_token_ids"], torch.Tensor)


def test_generate_kwargs_of_the_caller_stay_as_they_are(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    mine = {"do_sample": False}
    pipe(clips[0], text=QUESTION, generate_kwargs=mine, max_new_tokens=2)
    assert mine == {"do_sample": False}


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((), {}, "at least"),
        (("clip.mp4",), {}, "needs a text"),
        ((["a.mp4", "b.mp4", "c.mp4"],), {"text": ["one", "two"]}, "2 entries of videos, got 3"),
        (("clip.mp4",), {"text": [{"role": "user", "content": "hi"}]}, "holds its media itself"),
        (([{"video": "x.mp4"}],), {}, "Cannot make a question"),
        (({"text": "x.mp4", "text_pair": "What?"},), {}, "Cannot make a question"),
    ],
)
def test_wrong_inputs_say_what_to_do(
    pipe: VideoTextToTextPipeline, arguments: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        pipe(*arguments, **options)


def test_placeholders_and_videos_must_agree(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    with pytest.raises(ValueError, match=r"2 <video>.* 1 videos"):
        pipe(clips[0], text="<video> and <video>?")


def test_missing_file_names_it(pipe: VideoTextToTextPipeline) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        pipe("/tmp/gone.mp4", text="What?")


def test_a_model_without_videos_is_refused(tiny_checkpoint: str) -> None:
    headless = hf_videollm.PllavaModel.from_pretrained(tiny_checkpoint)
    processor = hf_videollm.PllavaProcessor.from_pretrained(tiny_checkpoint)
    with pytest.raises(TypeError, match="PllavaModel"):
        VideoTextToTextPipeline(model=headless, processor=processor, tokenizer=processor.tokenizer)


def test_many_questions_about_one_video(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    texts = ["What?", "How many?"]
    alone = [pipe(clips[0], text=text, **GREEDY) for text in texts]
    assert pipe(clips[0], text=texts, batch_size=2, **GREEDY) == alone
    frames, _ = hf_videollm.load_video(clips[0])
    assert pipe(frames, text=texts, **GREEDY) == alone
    assert pipe([Image.fromarray(frame) for frame in frames], text=texts, **GREEDY) == alone


def test_video_is_another_name_of_videos(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    assert pipe(video=clips[0], text=QUESTION, **GREEDY) == pipe(clips[0], text=QUESTION, **GREEDY)
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        pipe(video="gone.mp4", text=QUESTION)


def test_images_are_seen(pipe: VideoTextToTextPipeline) -> None:
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    answers = [answer(pipe({"image": image, "text": QUESTION}, **GREEDY)) for image in (red, blue)]
    assert answers[0] != answers[1]
    assert answer(pipe(images=red, text=QUESTION, **GREEDY)) == answers[0]
    both = pipe(images=[red, blue], text=[QUESTION, QUESTION], batch_size=2, **GREEDY)
    assert [answer(result) for result in both] == answers
    raw = pipe(images=red, text="USER: <image>\n What moves? ASSISTANT:", return_full_text=False, **GREEDY)
    assert answer(raw) == answer(pipe(images=red, text=QUESTION, return_full_text=False, **GREEDY))


def test_prefilled_answer_as_plain_text(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    """MVBench's official prompts begin the answer with "Best option:("."""
    messages = [*chat(clips[0]), {"role": "assistant", "content": "Best option:("}]
    said = pipe(messages, **GREEDY)[0]["generated_text"][-1]
    assert said["content"][0]["text"].startswith("Best option:(")
    assert messages[-1]["content"] == "Best option:("


def test_a_column_of_a_dataset(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    dataset = datasets.Dataset.from_list([{"messages": chat(clip)} for clip in clips])
    expected = [pipe(chat(clip), **GREEDY)[0]["generated_text"][-1] for clip in clips]
    assert [row[0]["generated_text"][-1] for row in pipe(dataset["messages"], **GREEDY)] == expected


def test_a_saved_pipeline_is_complete(pipe: VideoTextToTextPipeline, clips: list[str], tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again = pipeline("video-text-to-text", model=str(tmp_path), device="cpu")
    assert again(clips[0], text=QUESTION, **GREEDY) == pipe(clips[0], text=QUESTION, **GREEDY)


CHANGES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"num_frames": 2}, {"timeout": 50.0}, {"num_frames": 2, "timeout": 50.0}),
    ({"num_frames": 2, "start": 0.5}, {"start": 1.0}, {"num_frames": 2, "start": 1.0}),
    ({"num_frames": 2}, {"processor_kwargs": {"end": 1.0}}, {"num_frames": 2, "end": 1.0}),
    ({"processor_kwargs": {"num_frames": 2}}, {"end": 1.0}, {"num_frames": 2, "end": 1.0}),
    ({"videos_kwargs": {"num_frames": 2, "start": 0.5}}, {"num_frames": 3}, {"num_frames": 3, "start": 0.5}),
    ({"videos_kwargs": {"num_frames": 2}}, {"videos_kwargs": {"start": 0.5}}, {"num_frames": 2, "start": 0.5}),
    ({"num_frames": 2, "start": 0.5}, {"videos_kwargs": {"num_frames": 3}}, {"num_frames": 3, "start": 0.5}),
    # Of two that exclude each other, that of the call.
    ({"num_frames": 2, "start": 0.5}, {"fps": 2.0}, {"fps": 2.0, "start": 0.5}),
    ({"fps": 2.0, "start": 0.5}, {"num_frames": 3}, {"num_frames": 3, "start": 0.5}),
    ({"fps": 2.0}, {"videos_kwargs": {"num_frames": 3}}, {"num_frames": 3}),
    ({"fps": 2.0}, {"num_frames": None}, {"fps": 2.0}),
]


@pytest.mark.parametrize(("made_with", "of_call", "expected"), CHANGES)
def test_options_of_a_call_leave_the_others_of_the_pipeline(
    pipe: VideoTextToTextPipeline,
    clips: list[str],
    made_with: dict[str, Any],
    of_call: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    made = VideoTextToTextPipeline(model=pipe.model, processor=pipe.processor, **made_with)

    def seen(given: VideoTextToTextPipeline, **options: Any) -> torch.Tensor:
        rows: list[torch.Tensor] = []
        process = type(given).preprocess

        class Watched(VideoTextToTextPipeline):
            def preprocess(self, inputs: Any = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
                row = process(self, inputs, *args, **kwargs)
                rows.append(row["row"]["pixel_values_videos"])
                return row

        given.__class__ = Watched
        try:
            given(clips[0], text=QUESTION, max_new_tokens=1, **options)
        finally:
            given.__class__ = VideoTextToTextPipeline
        return rows[0]

    plain = seen(made)
    assert torch.equal(seen(made, **of_call), seen(pipe, **expected))
    assert torch.equal(seen(made), plain)  # nothing of the call stays behind
    assert not torch.equal(plain, seen(pipe))  # control: the options of the pipeline show


def test_options_of_generation_of_a_call_leave_the_others(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    seen: list[dict[str, Any]] = []

    class Watched(VideoTextToTextPipeline):
        def _forward(self, model_inputs: Any, generate_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
            seen.append(dict(generate_kwargs or {}))
            return super()._forward(model_inputs, generate_kwargs)

    fixed = {"generate_kwargs": {"max_new_tokens": 3, "do_sample": False}}
    made = Watched(model=pipe.model, processor=pipe.processor, **fixed)
    for of_call, expected in (
        ({}, {"max_new_tokens": 3, "do_sample": False}),
        ({"num_beams": 2}, {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}),
        ({"generate_kwargs": {"num_beams": 2}}, {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}),
        ({"max_new_tokens": 2}, {"max_new_tokens": 2, "do_sample": False}),
        ({"generate_kwargs": {"max_new_tokens": 2}}, {"max_new_tokens": 2, "do_sample": False}),
        ({}, {"max_new_tokens": 3, "do_sample": False}),
    ):
        result = made(clips[0], text=QUESTION, return_tensors=True, **of_call)
        assert seen[-1] == expected
        assert result
    with pytest.raises(ValueError, match="max_new_tokens"):
        made(clips[0], text=QUESTION, max_new_tokens=2, generate_kwargs={"max_new_tokens": 2})
    # The small tokenizer cannot look for strings to stop at.
    _, forward, _ = made._sanitize_parameters(stop_sequence="zzz")
    assert {"max_new_tokens": 3, "do_sample": False, "stop_strings": ["zzz"]}.items() <= forward[
        "generate_kwargs"
    ].items()
    assert "stop_sequence" not in forward["generate_kwargs"]
