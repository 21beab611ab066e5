"""Training with sound: the cache, the collator, the stage that only hears, and the small model that learns it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_videollm.data import records as data_records
from hf_videollm.data.records import make_record, read_jsonl, write_jsonl
from hf_videollm.models.errors import MediaError
from hf_videollm.models.media_audio import load_audio
from hf_videollm.synthetic.clips import generate_dataset, make_scene, write_scene_mp4
from hf_videollm.synthetic.tiny.parts import build_tokenizer, take_over_weights, vocabulary
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.synthetic.tiny.videollama2_av import av_vocabulary, build_tiny_videollama2_av
from hf_videollm.training.caches.frames import FrameCache
from hf_videollm.training.caches.sounds import AudioCache
from hf_videollm.training.collator import IGNORE_INDEX, VideoDataCollator
from hf_videollm.training.sft import Recipe, RecipeError, make_trainer, merge_turns, run_sft, without_picture

SMALL = {"num_frames": 4, "image_size": 32, "vision_width": 32, "vision_layers": 1, "text_width": 32, "text_layers": 1}
SMALL |= {"audio_width": 32, "audio_layers": 1}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips with sound and, last, one without."""
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_scene_mp4(make_scene(seed), folder / f"{seed}.mp4", with_audio=seed != 2)) for seed in range(3)]


@pytest.fixture(scope="module")
def processor():
    return build_tiny_videollama2_av(**SMALL)[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool") / "clips"
    return str(generate_dataset(folder, 12, kind="entry", sound_questions=True, progress=False))


def row(video):
    return make_record("r", video, [("Is the sound high or low?", "high")]).to_dict()


def recipe_for(records, folder, **arguments):
    options = {"output_dir": str(folder / "out"), "per_device_train_batch_size": 4, "max_steps": 2}
    options |= {"logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    return Recipe(
        records=records, frame_cache=str(folder / "cache"), merge_turns=True, arguments={**options, **arguments}
    )


# The cache


def test_cache_holds_the_sound_of_the_files(clips, tmp_path):
    cache = AudioCache.build([*clips, clips[0]], 16000, tmp_path, progress=False)
    assert list(cache) == clips
    assert len(cache) == 3
    for clip in clips[:2]:
        np.testing.assert_array_equal(cache[clip], load_audio(clip, sampling_rate=16000))
        assert cache[clip].dtype == np.float32
    assert cache[clips[2]] is None


def test_cache_is_reused_and_notices_changes(clips, tmp_path, monkeypatch):
    first = AudioCache.build(clips, 16000, tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("hf_videollm.data.media_cache.cache.load_audio", lambda *_, **__: pytest.fail("decoded again"))
        again = AudioCache.build(clips[:2], 16000, tmp_path, progress=False)
    np.testing.assert_array_equal(first[clips[1]], again[clips[1]])
    other = AudioCache.build(clips, 8000, tmp_path, progress=False)
    assert len(other[clips[0]]) == pytest.approx(len(first[clips[0]]) / 2, abs=1)
    with pytest.raises(ValueError, match="no files"):
        AudioCache.build([], 16000, tmp_path)


def test_cache_of_silent_files_only(clips, tmp_path):
    cache = AudioCache.build(clips[2:], 16000, tmp_path, progress=False)
    assert cache[clips[2]] is None


def test_a_broken_file_is_named(clips, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        AudioCache.build([clips[0], str(tmp_path / "broken.mp4")], 16000, tmp_path / "c", False)


# The collator


def test_cached_sound_gives_the_same_batch(processor, clips, tmp_path):
    frames = FrameCache.build(clips, processor.video_processor, tmp_path, progress=False)
    sounds = AudioCache.build(clips, 16000, tmp_path, progress=False)
    rows = [row(clip) for clip in clips]
    decoded = VideoDataCollator(processor)(rows)
    cached = VideoDataCollator(processor, frames=frames, sounds=sounds)(rows)
    assert decoded.keys() == cached.keys()
    for name, value in decoded.items():
        torch.testing.assert_close(cached[name], value, msg=name)
    # The silent clip is heard as silence of its own length.
    frames_heard = decoded["input_features_mask"].sum(-1).tolist()
    lengths = [make_scene(seed).duration for seed in range(3)]
    assert frames_heard == [pytest.approx(100 * length, abs=20) for length in lengths]
    quiet = decoded["input_features"][2][decoded["input_features_mask"][2].bool()]
    assert torch.unique(quiet).numel() == 1
    for position in range(3):
        audio_tokens = (decoded["input_ids"][position] == processor.audio_token_id).sum().item()
        assert audio_tokens == frames_heard[position] // 16 * 8


def test_sounds_of_their_own_come_from_the_cache(processor, clips, tmp_path):
    sounds = AudioCache.build(clips, 16000, tmp_path, progress=False)
    heard = row(clips[0])
    heard["messages"][0]["content"][0]["type"] = "audio"
    decoded = VideoDataCollator(processor)([heard])
    cached = VideoDataCollator(processor, sounds=sounds)([heard])
    assert "pixel_values_videos" not in decoded
    for name, value in decoded.items():
        torch.testing.assert_close(cached[name], value, msg=name)
    assert not (decoded["input_ids"] == processor.video_token_id).any()


def test_no_cached_sound_goes_to_videos_that_are_not_heard(processor, clips, tmp_path):
    sounds = AudioCache.build(clips[:1], 16000, tmp_path, progress=False)
    for options in ({"use_audio_in_video": False}, {"audio_kwargs": {"use_audio_in_video": False}}):
        batch = VideoDataCollator(processor, sounds=sounds, processor_kwargs=options)([row(clips[0])])
        assert "input_features" not in batch
    assert "input_features" in VideoDataCollator(processor, sounds=sounds)([row(clips[0])])


def test_one_of_several_options_is_drawn_for_each_batch(processor, clips):
    options = {"missing_audio": ["silence", "skip"]}

    def heard(seed):
        collator = VideoDataCollator(processor, vary=options, seed=seed)
        return ["input_features" in collator([row(clips[2])]) for _ in range(12)]

    drawn = heard(0)
    assert 2 < sum(drawn) < 10
    assert drawn == heard(0) != heard(1)


def test_labels_are_the_answers_only(processor, clips):
    batch = VideoDataCollator(processor)([row(clips[0])])
    learned = batch["labels"][0][batch["labels"][0] != IGNORE_INDEX].tolist()
    assert processor.tokenizer.convert_ids_to_tokens(learned) == ["high", "</s>"]


# Training


def test_every_part_learns(records, tmp_path):
    model, processor = build_tiny_videollama2_av(**SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = run_sft(recipe_for(records, tmp_path), model, processor)
    after = trainer.model.state_dict()
    for part in ("vision_tower", "connector", "audio_tower", "audio_projector", "language_model"):
        assert any(not torch.equal(before[name], after[name]) for name in before if part in name), part


def test_audio_stage_hears_without_seeing(records, tmp_path):
    model, processor = build_tiny_videollama2_av(**SMALL)
    recipe = replace(recipe_for(records, tmp_path), kinds=["pitch"], sound_only=True)
    trainer = make_trainer(recipe, model, processor)
    batch = next(iter(trainer.get_train_dataloader()))
    assert "pixel_values_videos" not in batch
    # Three seconds of sound: 18 patches in time, 8 in frequency.
    assert (batch["input_ids"] == processor.audio_token_id).sum(-1).tolist() == [144] * 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        if "vision_tower" in name or "connector" in name:
            assert torch.equal(value, before[name]), name
    with pytest.raises(RecipeError, match="PllavaProcessor cannot hear"):
        make_trainer(recipe, *build_tiny_pllava(num_frames=4, image_size=32, pooling_shape=(2, 2, 2)))


def test_questions_about_a_sound_alone_are_not_joined_with_those_about_its_clip(clips):
    seen = make_record("seen", clips[0], [("What colour is the shape?", "red")])
    heard = [without_picture(make_record(f"heard{i}", clips[0], [("High or low?", "high")])) for i in range(2)]
    assert (heard[0].media("audio"), heard[0].media("video")) == ([clips[0]], [])
    joined = merge_turns([seen, *heard])
    assert [record.media("video") for record in joined] == [[clips[0]], []]
    assert [len(record.messages) for record in joined] == [2, 4]


def test_pictures_silence_and_sounds_alone_train_in_one_batch(clips, tmp_path):
    model, processor = build_tiny_videollama2_av(**SMALL)
    records = [make_record(f"r{i}", clip, [("Is the sound high or low?", "low")]) for i, clip in enumerate(clips)]
    records.append(without_picture(records.pop(1)))
    write_jsonl(records, tmp_path / "r.jsonl")
    recipe = recipe_for(str(tmp_path / "r.jsonl"), tmp_path, per_device_train_batch_size=3, max_steps=1)
    trainer = make_trainer(replace(recipe, vary={"missing_audio": ["skip"]}), model, processor)
    batch = next(iter(trainer.get_train_dataloader()))
    has_picture = (batch["input_ids"] == processor.video_token_id).any(-1)
    has_sound = (batch["input_ids"] == processor.audio_token_id).any(-1)
    kinds = sorted(zip(has_picture.tolist(), has_sound.tolist(), strict=True))
    assert kinds == [(False, True), (True, False), (True, True)]
    trainer.train()


def test_a_design_without_ears_trains_on_the_same_clips(records, tmp_path):
    trainer = make_trainer(
        recipe_for(records, tmp_path), *build_tiny_pllava(num_frames=4, image_size=32, pooling_shape=(2, 2, 2))
    )
    assert "input_features" not in next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize(
    "stage",
    [{}, {"kinds": ["pitch"], "sound_only": True}, {"kinds": ["colour"], "still_frames": True}, {"frame_cache": None}],
    ids=["clips with sound", "sound alone", "still frames", "without caches"],
)
def test_the_file_of_records_is_read_once(stage, records, tmp_path, monkeypatch):
    read = []
    opened = data_records._opened
    monkeypatch.setattr(data_records, "_opened", lambda path: [read.append(str(path)), opened(path)][1])
    make_trainer(replace(recipe_for(records, tmp_path), **stage), *build_tiny_videollama2_av(**SMALL))
    assert read == [records]
    # Control: another reader would be counted.
    read_jsonl(records)
    assert read == [records] * 2


# The small model


def test_words_of_the_small_pllava_keep_their_ids():
    words = av_vocabulary()
    assert words[: len(vocabulary())] == vocabulary()
    assert len(words) == len(set(words))
    tokenizer = build_tokenizer(words, ["<image>", "<video>", "<audio>"])
    ids = tokenizer("USER: <video> <audio>\n Is the sound heard before or after the shape appears? ASSISTANT: after")
    assert tokenizer.unk_token_id not in ids["input_ids"]


def test_weights_are_taken_over(tmp_path):
    sizes = {name: SMALL[name] for name in ("image_size", "vision_width", "vision_layers", "text_width", "text_layers")}
    teacher, _ = build_tiny_pllava(num_frames=4, **sizes, seed=1)
    teacher.save_pretrained(tmp_path)
    model, _ = build_tiny_videollama2_av(**SMALL)
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    origins = take_over_weights(model, tmp_path)
    known, state = teacher.state_dict(), model.state_dict()
    assert origins["partly"]
    for name in origins["taken"]:
        assert torch.equal(state[name], known[name])
    for name in origins["partly"]:
        rows = len(known[name])
        assert torch.equal(state[name][:rows], known[name])
        assert torch.equal(state[name][rows:], drawn[name][rows:])
    for name in origins["new"]:
        assert torch.equal(state[name], drawn[name])
        assert "connector" in name or "audio" in name
    with pytest.raises(ValueError, match="sizes of the checkpoint"):
        take_over_weights(build_tiny_videollama2_av(**{**SMALL, "text_width": 64})[0], tmp_path)


def test_questions_of_the_generator_hold_known_words_only(records):
    tokenizer = build_tokenizer(av_vocabulary(), ["<image>", "<video>", "<audio>"])
    for record in read_jsonl(records):
        text = f"{record.messages[0]['content'][-1]['text']} {record.answer}"
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text
