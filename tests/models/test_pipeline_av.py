"""The pipeline of a design that hears: the sound of videos, sounds of their own, options, batches."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from media_corpus import sine, write_sound, write_video
from transformers import pipeline

from hf_videollm import NoAudioStream, VideoTextToTextPipeline, load_audio

GREEDY = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": 6}}
QUESTION = "What moves?"


@pytest.fixture(scope="module")
def pipe(tiny_av_checkpoint: str) -> VideoTextToTextPipeline:
    return pipeline("video-text-to-text", model=tiny_av_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sounds")
    return [str(write_sound(folder / f"{tone}.m4a", sine(1.0, tone))) for tone in (200, 900, 3000)]


def answer(result: list[dict[str, Any]]) -> str:
    return result[0]["generated_text"]


def test_a_video_with_sound_is_heard(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    """The same pictures with other sounds give other answers, and equal what the processor and `generate` give."""
    heard = answer(pipe(clips[0], text=QUESTION, **GREEDY))
    messages = [{"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": QUESTION}]}]
    inputs = pipe.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert "input_features" in inputs
    tokens = pipe.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert heard.strip() == pipe.processor.decode(tokens, skip_special_tokens=True).strip()
    others = [load_audio(clip) for clip in clips[1:]] + [sine(1.5, 3000, rate=16000)]
    answers = {answer(pipe(clips[0], text=QUESTION, video_audio=[sound], **GREEDY)) for sound in others}
    assert answers != {heard}


def test_muting(pipe: VideoTextToTextPipeline, clips: list[str], tmp_path: Path) -> None:
    """Not listening is the same as a file without sound under `missing_audio="skip"`."""
    muted = answer(pipe(clips[0], text=QUESTION, use_audio_in_video=False, **GREEDY))
    silent = str(write_video(tmp_path / "silent.mp4", 10))
    with pytest.raises(NoAudioStream, match=r"silent\.mp4"):
        pipe(silent, text=QUESTION, missing_audio="error", **GREEDY)
    skipped = answer(pipe(silent, text=QUESTION, missing_audio="skip", **GREEDY))
    assert skipped == answer(pipe(silent, text=QUESTION, use_audio_in_video=False, **GREEDY))
    assert muted != answer(pipe(clips[0], text=QUESTION, **GREEDY))


def test_sound_alone(pipe: VideoTextToTextPipeline, sounds: list[str]) -> None:
    answers = [answer(pipe(audio=sound, text=QUESTION, **GREEDY)) for sound in sounds]
    assert len(set(answers)) > 1
    by_chat = pipe(
        [{"role": "user", "content": [{"type": "audio", "audio": sounds[0]}, {"type": "text", "text": QUESTION}]}],
        **GREEDY,
    )
    by_dict = pipe({"audio": sounds[0], "text": QUESTION}, **GREEDY)
    by_wave = pipe(audio=load_audio(sounds[0]), text=QUESTION, **GREEDY)
    by_prompt = pipe(audio=sounds[0], text="<audio>", **GREEDY)
    assert answer(by_chat) == answer(by_dict) == answer(by_wave) == answers[0]
    assert answer(by_prompt)


def test_wave_of_another_rate(pipe: VideoTextToTextPipeline) -> None:
    wave = sine(1.0, 500, rate=44100)[0]
    decoded = {"array": wave, "sampling_rate": 44100}
    by_option = answer(pipe(audio=wave, sampling_rate=44100, text="<audio>", **GREEDY))
    assert by_option == answer(pipe(audio=decoded, text="<audio>", **GREEDY))


def test_several_questions(pipe: VideoTextToTextPipeline, clips: list[str], sounds: list[str]) -> None:
    together = pipe(audio=sounds, text=[QUESTION] * 3, **GREEDY)
    assert [answer(result) for result in together] == [
        answer(pipe(audio=sound, text=QUESTION, **GREEDY)) for sound in sounds
    ]
    both = pipe(clips, audio=sounds, text=[QUESTION] * 3, **GREEDY)
    assert [answer(result) for result in both] == [
        answer(pipe(clip, audio=sound, text=QUESTION, **GREEDY)) for clip, sound in zip(clips, sounds, strict=True)
    ]


def test_batches_of_mixed_kinds_equal_single_calls(
    pipe: VideoTextToTextPipeline, clips: list[str], sounds: list[str]
) -> None:
    """Video with sound, video alone, sound alone, image, text: in one batch of `generate`."""
    picture = np.full((40, 40, 3), 200, np.uint8)
    samples = [
        {"videos": clips[0], "text": QUESTION},
        {"audio": sounds[1], "text": "What is heard, in a longer question?"},
        {"images": picture, "text": QUESTION},
        {"text": "Nothing?"},
        {"videos": clips[1], "audio": sounds[0], "text": QUESTION},
    ]
    single = [answer(pipe(dict(sample), **GREEDY)) for sample in samples]
    batched = pipe([dict(sample) for sample in samples], batch_size=5, **GREEDY)
    assert [answer(result) for result in batched] == single


def test_beams_and_several_answers(pipe: VideoTextToTextPipeline, clips: list[str], sounds: list[str]) -> None:
    """Rows are repeated with their sounds."""
    options = {"do_sample": False, "max_new_tokens": 6, "num_beams": 3}
    samples = [{"videos": clip, "audio": sound, "text": QUESTION} for clip, sound in zip(clips, sounds, strict=True)]
    single = [answer(pipe(dict(s), return_full_text=False, generate_kwargs=options)) for s in samples]
    batched = pipe([dict(s) for s in samples], batch_size=3, return_full_text=False, generate_kwargs=options)
    assert [answer(result) for result in batched] == single


def test_hf_dataset_with_stored_sounds(pipe: VideoTextToTextPipeline, sounds: list[str]) -> None:
    rows = [{"audio": {"bytes": Path(sound).read_bytes(), "path": None}, "text": QUESTION} for sound in sounds]
    dataset = datasets.Dataset.from_list(rows)
    assert [answer(result) for result in pipe(dataset, **GREEDY)] == [
        answer(pipe(audio=sound, text=QUESTION, **GREEDY)) for sound in sounds
    ]


def test_a_design_that_cannot_hear_says_so(tiny_checkpoint: str, sounds: list[str]) -> None:
    deaf = pipeline("video-text-to-text", model=tiny_checkpoint, device="cpu")
    block = {"type": "audio", "audio": sounds[0]}
    for arguments in ({"audio": sounds[0], "text": QUESTION}, {"text": [{"role": "user", "content": [block]}]}):
        with pytest.raises(ValueError, match="PllavaForConditionalGeneration cannot hear"):
            deaf(**arguments, **GREEDY)
