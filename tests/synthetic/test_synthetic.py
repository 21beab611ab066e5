"""The synthetic generator: same seed same clip, answers that follow from the frames, files that really decode."""

import itertools
import json

import av
import numpy as np
import pytest
import ready_python

from hf_videollm.data.records import read_jsonl
from hf_videollm.synthetic import clips as synthetic
from hf_videollm.synthetic.clips import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    MIXED_KINDS,
    QUESTION_KINDS,
    SHAPES,
    SPLIT_SEEDS,
    VIDEO_QUESTION_KINDS,
    answer_vocabulary,
    generate_dataset,
    held_out_questions,
    make_scene,
    questions_for,
    render_audio,
    render_scene,
    split_of,
    write_scene_mp4,
)
from hf_videollm.synthetic.render import SAMPLE_RATE, shape_coverage
from hf_videollm.synthetic.scene import BEEP_SECONDS

MANY = range(400)
# Written down once: if this changes, GENERATOR_VERSION must be raised and the bundled checkpoint retrained.
FROZEN_SCENE = [
    "order",
    23,
    (38, 34, 39),
    ["white cross", "purple triangle"],
    3,
    ["Which came first, the purple triangle or the white cross?"],
]


def scenes(kind, seeds=MANY):
    return [make_scene(seed, kind) for seed in seeds]


# Scenes


def test_a_seed_decides_everything():
    assert make_scene(7) == make_scene(7)
    assert make_scene(7) != make_scene(8)
    assert questions_for(make_scene(7)) == questions_for(make_scene(7))
    np.testing.assert_array_equal(render_scene(make_scene(7)), render_scene(make_scene(7)))


def test_scenes_are_the_same_on_every_machine():
    scene = make_scene(0)
    seen = [
        scene.kind,
        scene.num_frames,
        scene.background,
        [sprite.name for sprite in scene.sprites],
        scene.beeps,
        [question.question for question in questions_for(scene)],
    ]
    assert seen == FROZEN_SCENE


def test_kinds_are_mixed_evenly():
    kinds = [make_scene(seed).kind for seed in range(600)]
    for kind in MIXED_KINDS:
        assert 150 < kinds.count(kind) < 250


def test_entry_scenes_leave_the_scenes_of_other_seeds_alone():
    mixed = [make_scene(seed, entries=True) for seed in range(1000)]
    entries = [scene for scene in mixed if scene.kind == "entry"]
    assert 250 < len(entries) < 350
    assert all(scene == make_scene(scene.seed) for scene in mixed if scene.kind != "entry")
    assert all(scene == make_scene(scene.seed, "entry") for scene in entries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0, "kind": "dance"}, "'dance'"),
        ({"seed": 0, "num_frames": 3}, "at least 8"),
        ({"seed": 0, "fps": 0}, "fps"),
        ({"seed": 0, "kind": "entry", "num_frames": 8, "fps": 9}, "at least 1 s"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scene(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_stay_inside_the_frame(kind):
    for scene in scenes(kind):
        for sprite in scene.sprites:
            assert sprite.first_frame + len(sprite.centres) <= scene.num_frames
            for position in itertools.chain.from_iterable(sprite.centres):
                assert sprite.radius - 1e-9 <= position <= 1 - sprite.radius + 1e-9
            if kind != "count":
                assert sprite.radius >= 1 / 6


def test_shapes_of_a_count_scene_do_not_overlap():
    for scene in scenes("count"):
        for one, other in itertools.combinations(scene.sprites, 2):
            gap = np.abs(np.subtract(one.centres[0], other.centres[0])).max()
            assert gap > one.radius + other.radius


def test_the_two_shapes_of_an_order_scene_take_turns():
    for scene in scenes("order"):
        first, second = scene.sprites
        assert first.colour != second.colour
        assert first.shape != second.shape
        assert first.first_frame == 0
        assert second.first_frame == len(first.centres)
        assert second.first_frame + len(second.centres) == scene.num_frames


@pytest.mark.parametrize(("num_frames", "fps"), [(None, 8), (8, 8), (60, 30)])
def test_the_beep_of_an_entry_scene_is_clearly_on_one_side_of_the_appearance(num_frames, fps):
    for seed in MANY:
        scene = make_scene(seed, "entry", num_frames, fps)
        (sprite,) = scene.sprites
        assert scene.beeps == 1
        assert 0 < sprite.first_frame < scene.num_frames == sprite.first_frame + len(sprite.centres)
        appearance, beep = sprite.first_frame / fps, scene.beep_times[0] * scene.duration
        half = BEEP_SECONDS / 2
        assert half <= beep <= scene.duration - half
        if scene.sound_order == "before":
            assert beep + half < appearance
        else:
            assert beep - half > appearance
    assert {scene.num_frames for scene in scenes("entry")} == {24}


def test_sound_order_needs_eye_and_ear():
    # What always answering the more frequent side would reach, knowing only one of the two times.
    def best_guess(times):
        counts = {}
        for time, scene in zip(times, entries, strict=True):
            counts.setdefault(time, {"before": 0, "after": 0})[scene.sound_order] += 1
        return sum(max(sides.values()) for sides in counts.values()) / len(entries)

    entries = scenes("entry", range(4000))
    assert best_guess([scene.sprites[0].first_frame for scene in entries]) < 0.56
    assert best_guess([round(scene.beep_times[0] * 24) for scene in entries]) < 0.8


def test_direction_is_the_trend_and_only_the_trend():
    for scene in scenes("motion"):
        centres = np.array(scene.sprites[0].centres)
        time = np.linspace(-1, 1, scene.num_frames)
        slope = time @ (centres - centres.mean(0)) / (time @ time)
        step = np.array(DIRECTIONS[scene.direction])
        assert slope @ step > 0.15
        assert abs(slope[step == 0]).item() < 1e-9


def test_positions_without_their_order_do_not_tell_the_direction():
    # Both axes cover the same range with the same mean and spread, so a bag of frames fits all four directions.
    for scene in scenes("motion"):
        centres = np.array(scene.sprites[0].centres)
        extent = np.ptp(centres, axis=0)
        assert extent.min() / extent.max() > 0.85
        spread = centres.std(axis=0)
        assert spread.min() / spread.max() > 0.85
    by_direction = {
        direction: np.concatenate([s.sprites[0].centres for s in scenes("motion") if s.direction == direction])
        for direction in DIRECTIONS
    }
    for positions in by_direction.values():
        np.testing.assert_allclose(positions.mean(0), 0.5, atol=0.02)
        np.testing.assert_allclose(positions.std(0), by_direction["left"].std(0), atol=0.02)


# Questions


def test_every_answer_is_possible_and_balanced():
    answers = {kind: [] for kind in synthetic.QUESTION_KINDS}
    for seed in range(1500):
        for question in questions_for(make_scene(seed, entries=True), sound=True):
            assert question.answer in answer_vocabulary(question.kind)
            answers[question.kind].append(question.answer)
    for kind, given in answers.items():
        choices = answer_vocabulary(kind)
        if kind != "order":
            for choice in choices:
                assert 0.5 < given.count(choice) / len(given) * len(choices) < 1.5


def test_answers_describe_the_scene():
    for scene in scenes("motion", range(50)):
        by_kind = {question.kind: question.answer for question in questions_for(scene)}
        assert by_kind == {
            "colour": scene.sprites[0].colour,
            "shape": scene.sprites[0].shape,
            "direction": scene.direction,
        }
    for scene in scenes("count", range(50)):
        (question,) = questions_for(scene)
        assert question.answer == str(len(scene.sprites))
    sound = {question.kind: question.answer for question in questions_for(make_scene(3), sound=True)}
    assert sound["beeps"] == str(make_scene(3).beeps)
    assert sound["pitch"] == make_scene(3).pitch
    for scene in scenes("entry", range(50)):
        by_kind = {question.kind: question.answer for question in questions_for(scene, sound=True)}
        assert by_kind == {
            "colour": scene.sprites[0].colour,
            "shape": scene.sprites[0].shape,
            "sound_order": scene.sound_order,
            "pitch": scene.pitch,
        }
        assert {question.kind for question in questions_for(scene)} == {"colour", "shape"}
        assert make_scene(scene.seed).sound_order is None


def test_order_questions_do_not_betray_their_answer():
    mentioned_first = 0
    for scene in scenes("order"):
        (question,) = questions_for(scene)
        places = [question.question.index(sprite.name) for sprite in scene.sprites]
        assert question.answer == scene.sprites[0].name
        mentioned_first += places[0] < places[1]
    assert 0.42 < mentioned_first / len(MANY) < 0.58


def test_details_of_order_scenes():
    scene = make_scene(0)
    plain, detailed = questions_for(scene), questions_for(scene, details=True)
    assert detailed[: len(plain)] == plain
    assert [question.answer for question in detailed[len(plain) :]] == ["white", "cross", "purple", "triangle"]
    assert "first" in detailed[-4].question
    assert "last" in detailed[-1].question
    assert questions_for(make_scene(1, "motion"), details=True) == questions_for(make_scene(1, "motion"))


def test_unknown_answer_kind():
    with pytest.raises(ValueError, match="smell"):
        answer_vocabulary("smell")


# Drawing


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_its_area(shape):
    rows, columns, coverage = shape_coverage(shape, (0.5, 0.4), 0.3, 64)
    assert coverage.shape == (rows.stop - rows.start, columns.stop - columns.start)
    area = coverage.sum() / (0.3 * 64) ** 2
    exact = {
        "circle": np.pi * 0.98**2,
        "square": 1.72**2,
        "triangle": 1.8 * 2 / 2,
        "cross": 2 * 1.96 * 0.6 - 0.6**2,
        "ring": np.pi * (0.98**2 - 0.55**2),
    }[shape]
    assert area == pytest.approx(exact, rel=0.02)
    # Edges are smooth, so that motion by part of a pixel shows.
    assert np.any((coverage > 0.1) & (coverage < 0.9))


def test_shapes_differ_from_each_other():
    masks = [shape_coverage(shape, (0.5, 0.5), 0.2, 64)[2] for shape in SHAPES]
    for one, other in itertools.combinations(masks, 2):
        assert np.abs(one - other).mean() > 0.1


def test_colours_differ_from_each_other():
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert np.abs(np.subtract(one, other)).max() >= 80


def test_drawn_frames_show_the_scene():
    for kind in KINDS:
        scene = make_scene(5, kind)
        frames = render_scene(scene, size=96)
        assert frames.shape == (scene.num_frames, 96, 96, 3)
        assert frames.dtype == np.uint8
        for sprite in scene.sprites:
            if sprite.shape == "ring":
                continue
            x, y = (int(position * 96) for position in sprite.centres[0])
            np.testing.assert_allclose(frames[sprite.first_frame, y, x], sprite.rgb, atol=1)


def test_unknown_shape_and_bad_size():
    with pytest.raises(ValueError, match="blob"):
        shape_coverage("blob", (0.5, 0.5), 0.2, 64)
    for size in (8, 33):
        with pytest.raises(ValueError, match="size"):
            render_scene(make_scene(0), size=size)


def test_sound_has_the_beeps_it_says():
    for seed in range(30):
        scene = make_scene(seed, entries=True)
        waveform = render_audio(scene)
        assert waveform.dtype == np.float32
        assert len(waveform) == round(scene.duration * SAMPLE_RATE)
        window = SAMPLE_RATE // 50
        loud = np.abs(waveform[: len(waveform) // window * window].reshape(-1, window)).max(1) > 0.1
        assert (np.diff(np.r_[0, loud.astype(int)]) == 1).sum() == scene.beeps
        peak = np.abs(np.fft.rfft(waveform)).argmax() / scene.duration
        assert (peak > 1000) == (scene.pitch == "high")
        for time in scene.beep_times:
            assert loud[int(time * scene.duration * SAMPLE_RATE) // window]


# Files


def decode(path):
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        codecs = [stream.codec_context.name for stream in container.streams]
    return frames, codecs


def test_mp4_holds_the_scene(tmp_path):
    scene = make_scene(2, "motion")
    path = write_scene_mp4(scene, tmp_path / "new" / "clip.mp4")
    frames, codecs = decode(path)
    assert codecs == ["h264", "aac"]
    drawn = render_scene(scene)
    assert frames.shape == drawn.shape
    assert np.abs(frames.astype(int) - drawn).mean() < 8
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == scene.fps
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    assert rate == SAMPLE_RATE
    assert len(sound) == pytest.approx(scene.duration * SAMPLE_RATE, abs=2048)
    assert np.abs(sound).max() > 0.2
    assert [item.name for item in path.parent.iterdir()] == ["clip.mp4"]


def test_mp4_without_sound_and_twice_the_same_bytes(tmp_path):
    scene = make_scene(4)
    silent = write_scene_mp4(scene, tmp_path / "a.mp4", with_audio=False)
    assert decode(silent)[1] == ["h264"]
    again = write_scene_mp4(scene, tmp_path / "b.mp4", with_audio=False)
    assert silent.read_bytes() == again.read_bytes()


def test_failed_encoding_leaves_nothing(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no encoder")

    monkeypatch.setattr("hf_videollm.synthetic.render._encode", broken)
    with pytest.raises(RuntimeError, match="no encoder"):
        write_scene_mp4(make_scene(0), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


# Data sets


def test_dataset_resumes_and_grows(tmp_path):
    path = generate_dataset(tmp_path / "d", 3, seed=10, progress=False)
    records = read_jsonl(path)
    assert {record.metadata["seed"] for record in records} == {10, 11, 12}
    for record in records:
        scene = make_scene(record.metadata["seed"])
        assert (record.metadata["kind"], record.answer) in {(q.kind, q.answer) for q in questions_for(scene)}
        assert decode(record.media()[0])[0].shape[0] == scene.num_frames
    first = tmp_path / "d" / "videos" / "0000010.mp4"
    second = tmp_path / "d" / "videos" / "0000011.mp4"
    stamp = first.stat().st_mtime_ns
    second.unlink()
    generate_dataset(tmp_path / "d", 4, seed=10, progress=False)
    settings = json.loads((tmp_path / "d" / "settings.json").read_text())
    assert "entries" not in settings  # as folders from before this option
    assert first.stat().st_mtime_ns == stamp
    assert len(list((tmp_path / "d" / "videos").iterdir())) == 4
    assert {record.metadata["seed"] for record in read_jsonl(path)} == {10, 11, 12, 13}


def test_dataset_with_entry_scenes(tmp_path):
    options = {"seed": 0, "sound_questions": True, "entries": True, "size": 16, "progress": False}
    records = read_jsonl(generate_dataset(tmp_path, 12, **options))
    asked = {record.metadata["kind"]: record for record in records}
    assert asked["sound_order"].metadata["scene"] == "entry"
    assert asked["sound_order"].answer == make_scene(asked["sound_order"].metadata["seed"], "entry").sound_order
    with pytest.raises(synthetic.DatasetExistsError, match="other settings"):
        generate_dataset(tmp_path, 12, **{**options, "entries": False})


def test_dataset_refuses_other_settings_and_foreign_folders(tmp_path):
    generate_dataset(tmp_path / "d", 1, progress=False)
    with pytest.raises(synthetic.DatasetExistsError, match="other settings"):
        generate_dataset(tmp_path / "d", 1, size=32, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(synthetic.DatasetExistsError, match="not empty"):
        generate_dataset(tmp_path / "mine", 1, progress=False)
    assert [item.name for item in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "d" / "settings.json").write_text("{")
    with pytest.raises(synthetic.DatasetExistsError, match="not readable"):
        generate_dataset(tmp_path / "d", 1, progress=False)


def test_dataset_arguments(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        generate_dataset(tmp_path / "d", 0)
    with pytest.raises(ValueError, match="with_audio"):
        generate_dataset(tmp_path / "d", 1, with_audio=False, sound_questions=True)
    with pytest.raises(ValueError, match="are in two splits"):
        generate_dataset(tmp_path / "d", 2, seed=SPLIT_SEEDS["train"].stop - 1)
    with pytest.raises(ValueError, match="no split"):
        generate_dataset(tmp_path / "d", 2, seed=10**9)
    assert not (tmp_path / "d").exists()


def test_splits_share_no_scene():
    assert [split_of(seed) for seed in (0, 1_000_000, 2_000_000)] == ["train", "validation", "test"]
    starts = [make_scene(SPLIT_SEEDS[split].start + i).sprites for split in SPLIT_SEEDS for i in range(50)]
    assert len(set(starts)) == len(starts)


def test_held_out_questions_are_balanced_and_stable():
    questions = list(held_out_questions(per_kind=20))
    kinds = [question.kind for _, question in questions]
    assert {kind: kinds.count(kind) for kind in VIDEO_QUESTION_KINDS} == dict.fromkeys(VIDEO_QUESTION_KINDS, 20)
    assert len({scene.seed for scene, _ in questions}) == 100
    assert all(scene.seed in SPLIT_SEEDS["test"] for scene, _ in questions)
    assert questions == list(held_out_questions(per_kind=20))


def test_held_out_questions_about_sound():
    questions = list(held_out_questions(per_kind=10, sound=True))
    kinds = [question.kind for _, question in questions]
    assert {kind: kinds.count(kind) for kind in QUESTION_KINDS} == dict.fromkeys(QUESTION_KINDS, 10)
    assert len({scene.seed for scene, _ in questions}) == len(questions) == 80
    answers = [question.answer for _, question in questions if question.kind == "sound_order"]
    assert {"before", "after"} == set(answers)


# Command line


@pytest.mark.skipif(
    tuple(map(int, av.__version__.split(".")[:2])) < (17, 1), reason="PyAV before 17.1 writes sound late into MP4"
)
def test_command_line(tmp_path, cli):
    assert "--num-videos" in cli("data", "clips", "--help")[1]
    options = ["--num-videos", "2", "--split", "test", "--offset", "5", "--sound"]
    done = ready_python.run("-m", "hf_videollm.synthetic.clips", tmp_path / "d", *options)
    assert done.returncode == 0, done.stderr
    records = read_jsonl(tmp_path / "d" / "records.jsonl")
    assert {record.metadata["seed"] for record in records} == {2_000_005, 2_000_006}
    assert "pitch" in {record.metadata["kind"] for record in records}
    settings = json.loads((tmp_path / "d" / "settings.json").read_text())
    assert settings["seed"] == 2_000_005
    code, _, error = cli("data", "clips", str(tmp_path / "d"), "--num-videos", "2")
    assert code == 2
    assert "other settings" in error
    assert "Traceback" not in error
    assert cli("data", "clips", str(tmp_path / "e"), "--split", "dev")[0] == 2
    assert cli("data", "clips", str(tmp_path / "e"), "--kind", "dance")[0] == 2
    assert not (tmp_path / "e").exists()
