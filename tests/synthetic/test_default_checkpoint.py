"""The checkpoint that the package ships answers clips it has never seen, and only because it watches them."""

import json
from pathlib import Path

import pytest
import torch
from bundled import assert_small_and_whole
from transformers import AutoModelForImageTextToText, AutoProcessor

import hf_videollm
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips

# What the checkpoint must reach on 500 held-out questions.
TARGETS = {"colour": 0.95, "shape": 0.90, "direction": 0.90, "order": 0.85, "count": 0.85}
MAX_SHUFFLED_DIRECTION = 0.40
MAX_BYTES = 6_000_000


@pytest.fixture(scope="module")
def folder():
    try:
        return Path(hf_videollm.default_checkpoint())
    except FileNotFoundError:
        pytest.skip("the default checkpoint is not trained yet: python tools/tiny_checkpoints/pllava.py")


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def test_size_and_content(folder):
    assert_small_and_whole(folder, MAX_BYTES)


def test_recorded_numbers_reach_the_targets(folder):
    recorded = json.loads((folder / "accuracy.json").read_text())
    assert recorded["split"] == "test"
    assert recorded["questions"] == 500
    for kind, target in TARGETS.items():
        assert recorded["accuracy"][kind] >= target, kind
    assert recorded["direction_with_shuffled_frames"] <= MAX_SHUFFLED_DIRECTION


def test_answers_a_few_held_out_questions(loaded, tmp_path):
    answers = answer_questions(*loaded, held_out_clips(tmp_path, per_kind=10), progress=False)
    measured = accuracies(answers)
    assert len(answers) == 50
    # Ten questions of a kind leave room for chance, hence the lower bars; the slow test uses the real ones.
    assert all(measured[kind] >= target - 0.25 for kind, target in TARGETS.items()), measured
    assert sum(answer.is_right for answer in answers) >= 42, measured


def test_one_clip_alone_answers_as_in_a_batch(loaded, tmp_path):
    clips = held_out_clips(tmp_path, per_kind=2)
    together = answer_questions(*loaded, clips, progress=False)
    alone = answer_questions(*loaded, clips, batch_size=1, progress=False)
    assert [answer.text for answer in together] == [answer.text for answer in alone]


@pytest.mark.slow
def test_500_held_out_questions(loaded, tmp_path):
    clips = held_out_clips(tmp_path)
    measured = accuracies(answer_questions(*loaded, clips))
    assert len(clips) == 500
    for kind, target in TARGETS.items():
        assert measured[kind] >= target, measured


@pytest.mark.slow
def test_shuffled_frames_destroy_direction_only(loaded, tmp_path):
    clips = held_out_clips(tmp_path, kinds=["direction", "colour", "count"])
    measured = accuracies(answer_questions(*loaded, clips, shuffle_seed=0))
    assert measured["direction"] <= MAX_SHUFFLED_DIRECTION, measured
    assert measured["colour"] >= TARGETS["colour"], measured
    assert measured["count"] >= TARGETS["count"], measured


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtypes_have_the_names_of_torch_or_are_those_of_torch(dtype: str | torch.dtype) -> None:
    assert hf_videollm.load_pipeline(hf_videollm.default_checkpoint(), dtype=dtype).model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype must be one of auto, float32, bfloat16, float16, not 'int8'"):
        hf_videollm.load_pipeline(hf_videollm.default_checkpoint(), dtype=torch.int8)
