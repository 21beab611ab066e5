"""Long synthetic videos: same seed same video, answers that follow from the frames, short events, files that decode."""

import itertools
import json
from collections import Counter

import av
import numpy as np
import pytest

from hf_videollm.data.records import read_jsonl
from hf_videollm.synthetic import long as synthetic_long
from hf_videollm.synthetic.clips import DatasetExistsError
from hf_videollm.synthetic.long import (
    BACKDROPS,
    EVENT_FRAMES,
    LONG_FRAMES,
    LONG_KINDS,
    SHORT_FRAMES,
    STILL_FRAMES,
    generate_long_dataset,
    held_out_long_questions,
    long_questions,
    make_long_scene,
    render_long_scene,
    write_long_mp4,
)
from hf_videollm.synthetic.scene import COLOURS, SHAPES, SPLIT_SEEDS

MANY = range(300)
LENGTHS = [LONG_FRAMES, SHORT_FRAMES, STILL_FRAMES]
# Written down once: if this changes, GENERATOR_VERSION must be raised and the bundled checkpoint retrained.
FROZEN = [("purple", 15, 2), ("red", 30, 3), ("blue", 38, 3), ("cyan", 71, 3)]


def colour_at(picture, place):
    x, y = (int(position * len(picture)) for position in place)
    return picture[y, x].astype(int)


def test_a_seed_decides_everything():
    assert make_long_scene(7) == make_long_scene(7) != make_long_scene(8)
    assert long_questions(make_long_scene(7)) == long_questions(make_long_scene(7))
    scene = make_long_scene(1)
    assert [(event.backdrop, event.first_frame, event.num_frames) for event in scene.events] == FROZEN
    assert scene.num_frames == 98


@pytest.mark.parametrize("lengths", LENGTHS)
def test_shots_fill_the_video(lengths):
    for seed in MANY:
        scene = make_long_scene(seed, lengths)
        assert lengths[0] <= scene.num_frames <= lengths[1]
        assert [frame for shot in scene.shots for frame in shot.frames] == list(range(scene.num_frames))
        assert all(len(sprite.centres) == shot.num_frames for shot in scene.shots for sprite in shot.sprites)


@pytest.mark.parametrize(("lengths", "numbers"), [(LONG_FRAMES, {4, 5, 6}), (SHORT_FRAMES, {2, 3})])
def test_events_are_short_and_apart(lengths, numbers):
    found = set()
    for seed in MANY:
        scene = make_long_scene(seed, lengths)
        found.add(len(scene.events))
        assert {event.num_frames for event in scene.events} <= set(range(EVENT_FRAMES[0], EVENT_FRAMES[1] + 1))
        assert len({event.backdrop for event in scene.events}) == len(scene.events)
        for earlier, later in itertools.pairwise(scene.events):
            assert later.first_frame > earlier.frames.stop
        for event in scene.events:
            assert len({sprite.colour for sprite in event.sprites}) == 4
            assert len({sprite.shape for sprite in event.sprites}) == 4
            assert event.backdrop not in {sprite.colour for sprite in event.sprites}
    assert found == numbers


def test_stills_show_one_to_four_shapes():
    stills = [make_long_scene(seed, STILL_FRAMES) for seed in MANY]
    assert {len(still.shots[0].sprites) for still in stills} == {1, 2, 3, 4}
    assert {still.shots[0].name for still in stills} == {*BACKDROPS, "grey"}
    assert all(long_questions(still) for still in stills)


def test_answers_follow_from_the_frames():
    for seed in range(20):
        scene = make_long_scene(seed)
        frames = render_long_scene(scene)
        by_text = {question.question: question for question in long_questions(scene)}
        for event in scene.events:
            for frame in event.frames:
                for sprite in event.sprites:
                    place = sprite.centres[0] if sprite.shape != "ring" else ring_place(sprite)
                    assert abs(colour_at(frames[frame], place) - COLOURS[sprite.colour]).max() <= 12
            asked = [question for text, question in by_text.items() if text.endswith(f"on {event.backdrop}?")]
            assert len(asked) == 8
            for question in asked:
                (sprite,) = [one for one in event.sprites if f" {known(question, one)} on " in question.question]
                assert question.answer == (sprite.shape if question.kind == "detail_shape" else sprite.colour)
        for question in by_text.values():
            if question.kind == "backdrop_order":
                first, other = [event for event in scene.events if f" {event.backdrop}" in question.question]
                assert first.first_frame < other.first_frame
                assert question.answer == first.backdrop


def known(question, sprite):
    return sprite.colour if question.kind == "detail_shape" else sprite.shape


def ring_place(sprite):
    """A point in the middle of the band of a ring."""
    (x, y), band = sprite.centres[0], 0.775 * sprite.radius
    return x + band, y


def test_backdrops_and_words_tell_no_answer():
    first, named = Counter(), Counter()
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in LONG_KINDS}
    for seed in MANY:
        for question in long_questions(make_long_scene(seed)):
            answers[question.kind][question.answer] += 1
            if question.kind == "backdrop_order":
                first[question.answer] += 1
                named[question.question.rstrip("?").split(" or ")[1] == question.answer] += 1
    assert 0.45 < named[True] / named.total() < 0.55
    assert max(first.values()) / first.total() < 0.25
    assert set(answers["detail_shape"]) == set(SHAPES)
    assert max(answers["detail_shape"].values()) / answers["detail_shape"].total() < 0.25
    assert set(answers["detail_colour"]) == set(COLOURS)
    assert max(answers["detail_colour"].values()) / answers["detail_colour"].total() < 0.2


def test_same_properties_meet_in_other_combinations_elsewhere():
    """Who knows which shapes and colours there are, but not when, cannot answer."""
    conflicting = total = 0
    for seed in MANY:
        scene = make_long_scene(seed)
        for event in scene.events:
            for sprite in event.sprites:
                elsewhere = [one for other in scene.shots if other is not event for one in other.sprites]
                same_colour = {one.shape for one in elsewhere if one.colour == sprite.colour}
                conflicting += bool(same_colour - {sprite.shape})
                total += 1
    assert conflicting / total > 0.9


def test_file_has_a_frame_a_second(tmp_path):
    scene = make_long_scene(3)
    path = write_long_mp4(scene, tmp_path / "long.mp4")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert stream.average_rate == 1
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == (scene.num_frames, 64, 64, 3)
    assert abs(decoded.astype(int) - render_long_scene(scene)).mean() < 4
    assert path.stat().st_size < 100_000


def test_dataset_is_continued_and_complete(tmp_path):
    records = read_jsonl(generate_long_dataset(tmp_path, 2, num_frames=SHORT_FRAMES, progress=False))
    written = (tmp_path / "videos/0000000.mp4").stat().st_mtime_ns
    more = read_jsonl(generate_long_dataset(tmp_path, 3, num_frames=SHORT_FRAMES, progress=False))
    assert (tmp_path / "videos/0000000.mp4").stat().st_mtime_ns == written
    assert [record.id for record in more[: len(records)]] == [record.id for record in records]
    expected = sum(len(long_questions(make_long_scene(seed, SHORT_FRAMES))) for seed in range(3))
    assert len(more) == len({record.id for record in more}) == expected
    assert {record.metadata["kind"] for record in more} == set(LONG_KINDS)
    with pytest.raises(DatasetExistsError, match="made with other settings"):
        generate_long_dataset(tmp_path, 3, num_frames=LONG_FRAMES, progress=False)


def test_questions_can_be_fewer(tmp_path):
    path = generate_long_dataset(tmp_path, 4, num_frames=STILL_FRAMES, questions_per_video=3, progress=False)
    by_video = Counter(record.media()[0] for record in read_jsonl(path))
    assert len(by_video) == 4
    assert max(by_video.values()) == 3
    assert json.loads((tmp_path / "settings.json").read_text())["num_frames"] == [1, 1]


def test_fewer_questions_are_of_all_kinds_alike(tmp_path):
    """A video has many more questions about details than about order; a model that is trained needs both."""
    path = generate_long_dataset(tmp_path, 5, num_frames=SHORT_FRAMES, questions_per_video=3, progress=False)
    asked = [(record.metadata["seed"], record.metadata["kind"]) for record in read_jsonl(path)]
    assert Counter(asked) == Counter((seed, kind) for seed in range(5) for kind in LONG_KINDS)
    everything = long_questions(make_long_scene(0, SHORT_FRAMES))
    path = generate_long_dataset(tmp_path, 1, num_frames=SHORT_FRAMES, questions_per_video=100, progress=False)
    assert len(read_jsonl(path)) == len(everything), "all questions if there are fewer"
    # The control: without this rule most questions are about details.
    assert Counter(question.kind for question in everything)["backdrop_order"] < len(everything) / 5


def test_held_out_questions_are_one_a_video():
    found = list(held_out_long_questions(5))
    assert Counter(question.kind for _, question in found) == dict.fromkeys(LONG_KINDS, 5)
    assert len({scene.seed for scene, _ in found}) == 15
    assert all(scene.seed in SPLIT_SEEDS["test"] for scene, _ in found)
    assert found == list(held_out_long_questions(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must not be negative"),
        ({"seed": 0, "num_frames": (2, 4)}, "at least 8 each"),
        ({"seed": 0, "num_frames": (20, 10)}, "ascending"),
    ],
)
def test_bad_scenes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_long_scene(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_videos": 0}, "must be at least 1"),
        ({"num_videos": 2, "questions_per_video": 0}, "must be at least 1"),
        ({"num_videos": 2, "seed": SPLIT_SEEDS["train"].stop - 1}, "are in two splits"),
    ],
)
def test_bad_datasets_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        generate_long_dataset(tmp_path, **options)


def test_unknown_event():
    scene = make_long_scene(1)
    assert scene.event("red").first_frame == 30
    with pytest.raises(ValueError, match="No event of this video has a green backdrop"):
        scene.event("green")
    assert synthetic_long.DETAILS == 4
