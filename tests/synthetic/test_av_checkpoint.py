"""The shipped VideoLLaMA2-AV answers clips it has never met, hears what it says it hears, and sees without sound."""

import json
from pathlib import Path

import pytest
from bundled import assert_small_and_whole

import hf_videollm
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips
from hf_videollm.synthetic.scene import QUESTION_KINDS, SOUND_QUESTION_KINDS, VIDEO_QUESTION_KINDS

FOLDER = Path(hf_videollm.__file__).parent / "assets" / "videollama2-av-tiny"
# What the checkpoint must reach on 800 held-out questions.
TARGETS = {"colour": 0.95, "shape": 0.90, "direction": 0.90, "order": 0.85, "count": 0.85}
TARGETS |= dict.fromkeys(SOUND_QUESTION_KINDS, 0.90)
# Without sound the answers are guesses: what a hundred of them reach by luck, once in a thousand times.
MAX_DEAF = {"beeps": 0.40, "pitch": 0.66, "sound_order": 0.66}
MAX_SHUFFLED_DIRECTION = 0.40
MAX_BYTES = 6_000_000

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="not trained in this copy: python tools/tiny_checkpoints/videollama2_av.py"
)


def test_size_and_content():
    assert_small_and_whole(FOLDER, MAX_BYTES)


def test_recorded_numbers_reach_the_targets():
    recorded = json.loads((FOLDER / "accuracy.json").read_text())
    assert recorded["split"] == "test"
    assert recorded["questions"] == 100 * len(QUESTION_KINDS)
    check_targets(recorded["accuracy"], QUESTION_KINDS)
    check_targets(recorded["silent_files"], VIDEO_QUESTION_KINDS)
    check_deaf(recorded["silent_files"])
    check_targets(recorded["not_heard"], VIDEO_QUESTION_KINDS)
    check_deaf(recorded["not_heard"])
    check_targets(recorded["sound_alone"], ["beeps", "pitch"])
    assert recorded["frames_shuffled"]["direction"] <= MAX_SHUFFLED_DIRECTION


def test_answers_a_few_held_out_questions(loaded, tmp_path):
    clips = held_out_clips(tmp_path, per_kind=6, sound=True)
    measured = accuracies(answer_questions(*loaded, clips, progress=False))
    assert set(measured) == set(QUESTION_KINDS)
    # Six questions of a kind leave room for chance, hence the lower bars; the slow test uses the real ones.
    assert all(measured[kind] >= 4 / 6 for kind in QUESTION_KINDS), measured
    assert sum(measured.values()) / len(measured) >= 0.85, measured


def test_one_clip_alone_answers_as_in_a_batch_with_silent_ones(loaded, tmp_path):
    clips = held_out_clips(tmp_path, per_kind=1, sound=True)
    clips += held_out_clips(tmp_path, per_kind=1, sound=True, with_audio=False)
    together = answer_questions(*loaded, clips, progress=False)
    alone = answer_questions(*loaded, clips, batch_size=1, progress=False)
    assert [answer.text for answer in together] == [answer.text for answer in alone]


@pytest.mark.slow
def test_800_held_out_questions(loaded, tmp_path):
    clips = held_out_clips(tmp_path, sound=True)
    measured = accuracies(answer_questions(*loaded, clips))
    assert len(clips) == 800
    check_targets(measured, QUESTION_KINDS)


@pytest.mark.slow
def test_silent_files_leave_the_eyes_open(loaded, tmp_path):
    clips = held_out_clips(tmp_path, sound=True, with_audio=False)
    measured = accuracies(answer_questions(*loaded, clips))
    check_targets(measured, VIDEO_QUESTION_KINDS)
    check_deaf(measured)


@pytest.mark.slow
def test_sound_that_is_not_used_is_not_heard(loaded, tmp_path):
    clips = held_out_clips(tmp_path, kinds=SOUND_QUESTION_KINDS, sound=True)
    check_deaf(accuracies(answer_questions(*loaded, clips, processor_kwargs={"use_audio_in_video": False})))


@pytest.mark.slow
def test_sound_alone_is_heard(loaded, tmp_path):
    clips = held_out_clips(tmp_path, kinds=["beeps", "pitch"], sound=True)
    check_targets(accuracies(answer_questions(*loaded, clips, medium="audio")), ["beeps", "pitch"])


@pytest.mark.slow
def test_shuffled_frames_destroy_direction(loaded, tmp_path):
    clips = held_out_clips(tmp_path, kinds=["direction", "colour", "pitch"], sound=True)
    measured = accuracies(answer_questions(*loaded, clips, shuffle_seed=0))
    assert measured["direction"] <= MAX_SHUFFLED_DIRECTION, measured
    check_targets(measured, ["colour", "pitch"])


def check_targets(measured, kinds):
    for kind in kinds:
        assert measured[kind] >= TARGETS[kind], (kind, measured)


def check_deaf(measured):
    for kind, most in MAX_DEAF.items():
        assert measured[kind] <= most, (kind, measured)
