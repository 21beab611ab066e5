"""The shipped IVA answers questions on short events in long videos that it has never met, because of its adapter."""

import statistics
from pathlib import Path

import pytest
import torch
from bundled import assert_small_and_whole

import hf_videollm
from hf_videollm.synthetic.check import ClipQuestion, accuracies, answer_questions
from hf_videollm.synthetic.long import (
    LONG_FRAMES,
    LONG_KINDS,
    held_out_long_questions,
    make_long_scene,
    write_long_mp4,
)

FOLDER = Path(hf_videollm.__file__).parent / "assets" / "iva-tiny"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "measured" / "iva_learning.md"
MAX_BYTES = 6_000_000
DETAIL_KINDS = ("detail_shape", "detail_colour")
# What issue 6 asks for: points between the means of three seeds with IVA and three without.
MIN_DIFFERENCE = 10.0
MIN_DETAILS = 0.60

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="not trained in this copy: python tools/tiny_checkpoints/iva.py"
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("long"), 5)


def write_clips(folder, per_kind):
    return [
        ClipQuestion(write_long_mp4(scene, folder / f"{scene.seed:07d}.mp4"), question)
        for scene, question in held_out_long_questions(per_kind)
    ]


def of_details(clips):
    return [clip for clip in clips if clip.question.kind in DETAIL_KINDS]


def inputs_for(processor, clip, question=None):
    content = [{"type": "video", "path": str(clip.path)}, {"type": "text", "text": question or clip.question.question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_size_and_content():
    assert_small_and_whole(FOLDER, MAX_BYTES)


def test_recorded_runs_show_what_the_adapter_is_worth(recorded):
    assert recorded["split"] == "test"
    assert recorded["questions"] == 100 * len(LONG_KINDS)
    assert [(run["with_iva"], run["seed"]) for run in recorded["runs"]] == [
        (with_iva, seed) for with_iva in (True, False) for seed in (0, 1, 2)
    ]
    means = {
        with_iva: statistics.fmean(run["details"] for run in recorded["runs"] if run["with_iva"] == with_iva)
        for with_iva in (True, False)
    }
    difference = 100 * (means[True] - means[False])
    assert difference == pytest.approx(recorded["mean"]["difference_in_points"], abs=0.06)
    assert difference >= MIN_DIFFERENCE
    assert recorded["shipped"]["details"] >= MIN_DETAILS


@pytest.mark.parametrize("page", [FOLDER / "TRAINING.md", PAGE], ids=["TRAINING.md", "docs"])
def test_table_is_that_of_the_recorded_numbers(recorded, page):
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    table = {row[0]: row[1:] for row in rows}
    for run in recorded["runs"]:
        shares = [*(run["accuracy"][kind] for kind in LONG_KINDS), run["details"]]
        name = f"{'IVA' if run['with_iva'] else 'without IVA'}, seed {run['seed']}"
        assert table[name] == [f"{share:.1%}" for share in shares]


def test_answers_a_few_held_out_questions(loaded, clips):
    answers = answer_questions(*loaded, of_details(clips), batch_size=5, progress=False)
    # Ten questions leave room for chance, hence the low bar; guessing among what the event shows gets a quarter.
    assert sum(answer.is_right for answer in answers) >= 5, [answer.text for answer in answers]


def test_one_video_alone_answers_as_in_a_batch(loaded, clips):
    some = clips[:4]
    together = answer_questions(*loaded, some, progress=False)
    alone = answer_questions(*loaded, some, batch_size=1, progress=False)
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_the_selector_finds_the_event(loaded, clips):
    """Most of its attention at its sharpest insertion point lies on the few frames of the event asked about."""
    model, processor = loaded
    shares, even = [], []
    for clip in of_details(clips):
        scene = make_long_scene(int(clip.path.stem))
        event = scene.event(clip.question.question.rstrip("?").split(" on ")[-1])
        (weights,) = model.model.get_frame_attentions(**inputs_for(processor, clip))
        assert weights.shape[-1] == scene.num_frames >= LONG_FRAMES[0]
        shares.append(weights[..., list(event.frames)].sum(-1).mean((1, 2)))
        even.append(event.num_frames / scene.num_frames)
    assert torch.stack(shares).mean(0).max() > 10 * statistics.fmean(even)


def test_the_question_decides_which_event_is_looked_at(loaded, clips):
    """The same video and another backdrop in the question: attention moves to the other event."""
    model, processor = loaded
    clip = of_details(clips)[0]
    scene = make_long_scene(int(clip.path.stem))
    on_own = []
    for event in scene.events[:2]:
        question = f"What shape is {event.sprites[0].colour} on {event.name}?"
        (weights,) = model.model.get_frame_attentions(**inputs_for(processor, clip, question))
        shares = [weights[..., list(one.frames)].sum(-1).mean((1, 2)).max() for one in scene.events[:2]]
        on_own.append(int(torch.stack(shares).argmax()))
    assert on_own == [0, 1]


@pytest.mark.slow
def test_300_held_out_questions(loaded, recorded, tmp_path):
    measured = accuracies(answer_questions(*loaded, write_clips(tmp_path, 100), batch_size=10))
    # Other processors round otherwise: an answer or two of a hundred may change.
    assert measured == pytest.approx(recorded["shipped"]["accuracy"], abs=0.03)
