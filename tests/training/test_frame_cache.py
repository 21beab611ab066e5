"""A cache of decoded media changes no number of a batch, for every design, and notices what it must not mix up."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_videollama2_checkpoint import write_videollama2
from torch.utils.data import DataLoader
from transformers import AutoProcessor

import hf_videollm
from hf_videollm.data.media_cache.cache import MediaCache
from hf_videollm.evaluation.asking import Ask, Asker
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.errors import MediaTooLarge, MediaWarning
from hf_videollm.models.media_audio import load_audio
from hf_videollm.models.media_reading import reading_through
from hf_videollm.models.media_video import load_video
from hf_videollm.models.video_processing_pllava import PllavaVideoProcessor
from hf_videollm.models.video_processing_videollama2 import VideoLlama2VideoProcessor
from hf_videollm.synthetic.clips import make_scene, write_scene_mp4
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.sft import Recipe, RecipeError, load_recipe, run_sft

DESIGNS = [*bundled_checkpoints(), "videollama2"]
every_design = pytest.mark.parametrize("name", DESIGNS)
Processors = Callable[[str], Any]


@pytest.fixture(scope="module")
def processor_of(tmp_path_factory: pytest.TempPathFactory) -> Processors:
    def find(name: str) -> Any:
        if name != "videollama2":
            return AutoProcessor.from_pretrained(hf_videollm.default_checkpoint(name))
        folder = tmp_path_factory.getbasetemp() / "videollama2_of_cache"
        return AutoProcessor.from_pretrained(folder if folder.exists() else write_videollama2(folder))

    return find


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Videos of different lengths; the last one has no sound."""
    folder = tmp_path_factory.mktemp("films")
    seeds = sorted(range(12), key=lambda seed: make_scene(seed).num_frames)
    chosen = (seeds[0], seeds[-1])
    return [
        str(write_scene_mp4(make_scene(seed), folder / f"{seed}.mp4", with_audio=not index))
        for index, seed in enumerate(chosen)
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What caches decode, in order."""
    found: list[Any] = []
    for name, load in (("load_video", load_video), ("load_audio", load_audio)):

        def record(source: Any, load: Any = load, **options: Any) -> Any:
            found.append(source)
            return load(source, **options)

        monkeypatch.setattr(f"hf_videollm.data.media_cache.cache.{name}", record)
    return found


def row(path: Any, **options: Any) -> dict[str, Any]:
    video = {"type": "video", "video": path, **options}
    user = {"role": "user", "content": [video, {"type": "text", "text": "What colour is the shape?"}]}
    return {"messages": [user, {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]}


def assert_same(batch: dict[str, Any], other: dict[str, Any]) -> None:
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


# The same batches


@every_design
def test_cold_warm_and_uncached_batches_are_the_same(
    name: str, processor_of: Processors, films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    """Videos of unequal length, a part of one, and one with another number of frames."""
    processor = processor_of(name)
    rows = [row(films[0]), row(films[1]), row(films[1], start=0.4, end=1.3), row(films[0], num_frames=3)]
    if name == "videollama2":  # its connector takes frames by two
        rows[3] = row(films[0], num_frames=2)
    for chosen in ([rows[0], rows[1]], rows[2:3], rows[3:]):
        plain = VideoDataCollator(processor)(chosen)
        cached = VideoDataCollator(processor, cache=MediaCache(tmp_path))
        assert_same(cached(chosen), plain)
        assert decoded
        decoded.clear()
        assert_same(VideoDataCollator(processor, cache=MediaCache(tmp_path))(chosen), plain)
        assert_same(cached(chosen), plain)
        # A file without sound is asked for its sound each time, which is quick.
        assert set(decoded) <= {films[1]}
        decoded.clear()
    if name == "iva-tiny":
        counts = VideoDataCollator(processor, cache=MediaCache(tmp_path))(rows[:2])["num_video_frames"]
        assert counts[0] != counts[1]


@every_design
def test_answers_are_generated_from_the_cache(
    name: str, processor_of: Processors, films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    processor = processor_of(name)
    plain, answers = VideoDataCollator(processor).prompts([row(films[0])])
    cached = VideoDataCollator(processor, cache=MediaCache(tmp_path))
    for _ in range(2):
        again, same = cached.prompts([row(films[0])])
        assert_same(dict(again), dict(plain))
        assert same == answers
    assert len(decoded) == len(set(decoded)) or name == "videollama2-av-tiny"


def test_workers_fill_one_cache_that_their_parent_reads(
    processor_of: Processors, films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    processor = processor_of("pllava-tiny")
    collator = VideoDataCollator(processor, cache=MediaCache(tmp_path))
    rows = [row(films[0]), row(films[1])]
    batches = list(DataLoader(rows, batch_size=1, collate_fn=collator, num_workers=2))
    for batch, one in zip(batches, rows, strict=True):
        assert_same(batch, VideoDataCollator(processor)([one]))
        assert_same(collator([one]), batch)
    # A cache goes into processes that are not forks, too.
    assert pickle.loads(pickle.dumps(collator.cache)).entries.folder == tmp_path
    # The workers decoded, each in a process of its own.
    assert decoded == []


def test_evaluations_read_through_the_cache_of_trainings(
    processor_of: Processors, films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    processor, cache = processor_of("pllava-tiny"), MediaCache(tmp_path)
    VideoDataCollator(processor, cache=cache)([row(films[0])])
    assert decoded == [films[0]]
    item = Item("1", (Medium(Path(films[0])),), ("What colour is the shape?",))
    ask = Ask(item, 0, Prompt("What colour is the shape?"))
    found = [Asker(processor, cache=given).for_thread().inputs(ask) for given in (cache, None)]
    assert decoded == [films[0]]
    assert_same(dict(found[0].row), dict(found[1].row))
    assert found[0].media == found[1].media


@pytest.mark.parametrize("form", ["bytes", "entry", "folder", "pictures", "address"])
def test_videos_in_every_form_are_known_by_their_content(
    form: str, processor_of: Processors, films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    pictures = [tmp_path / "pictures" / f"{number}.png" for number in range(6)]
    pictures[0].parent.mkdir()
    for number, path in enumerate(pictures):
        Image.fromarray(np.full((40, 60, 3), number * 30, np.uint8)).save(path)
    content = Path(films[0]).read_bytes()
    source: Any = {
        "bytes": content,
        "entry": {"bytes": content, "path": "a.mp4"},
        "folder": str(pictures[0].parent),
        "pictures": [str(path) for path in pictures],
        "address": Path(films[0]).as_uri(),
    }[form]
    processor = processor_of("pllava-tiny")
    plain = processor.video_processor(videos=[source], return_tensors="pt")
    cache = MediaCache(tmp_path / "cache")
    for _ in range(2):
        with reading_through(cache):
            assert_same(processor.video_processor(videos=[source], return_tensors="pt"), plain)
    assert len(decoded) == 1
    if form == "folder":
        Image.fromarray(np.full((40, 60, 3), 255, np.uint8)).save(pictures[0])
        with reading_through(cache):
            changed = processor.video_processor(videos=[source], return_tensors="pt")
        assert not torch.equal(changed["pixel_values_videos"], plain["pixel_values_videos"])


def test_metadata_of_cached_videos_are_those_of_the_file(films: list[str], tmp_path: Path) -> None:
    processor, cache = PllavaVideoProcessor(num_frames=4), MediaCache(tmp_path)
    plain, known = processor.decode(films[1], start=0.5)
    for _ in range(2):
        with reading_through(cache):
            frames, metadata = processor.decode(films[1], start=0.5)
        assert torch.equal(frames, plain)
        assert dict(metadata) == dict(known)
        assert metadata.timestamps == known.timestamps
        # The processor may change them: they are its own.
        frames[:] = 0


def test_a_recipe_trains_on_parts_of_videos_from_a_bounded_cache(
    films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    (tmp_path / "mix.yaml").write_text(f"sources: [{{annotation: {tmp_path / 'rows.jsonl'}}}]\n")
    rows = [{"id": str(number), **row(film, start=0.5)} for number, film in enumerate(films)]
    for entry in rows:
        block = entry["messages"][0]["content"][0]
        block["path"] = block.pop("video")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    arguments = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "use_cpu": True, "save_strategy": "no"}
    arguments |= {"per_device_train_batch_size": 2, "disable_tqdm": True, "report_to": "none"}
    setting = {"folder": str(tmp_path / "cache"), "max_size": "5 MB"}
    size = {"num_frames": 4, "image_size": 32, "patch_size": 8, "pooling_shape": (2, 2, 2)}
    found = []
    for cache in (None, setting, setting):
        recipe = Recipe(mix=str(tmp_path / "mix.yaml"), frame_cache=cache, arguments={**arguments, "logging_steps": 1})
        trainer = run_sft(recipe, *build_tiny_pllava(**size))
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert found[0] == found[1] == found[2]
    assert sorted(decoded) == sorted(films)


def test_wrong_settings_of_recipes_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("frame_cache: {folder: frames, max_sise: 20 GB}\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: frame_cache has no 'max_sise': did you mean max_size"):
        load_recipe(tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("frame_cache: {folder: frames}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml", ["frame_cache.max_size=20 GB"])
    assert recipe.frame_cache == {"folder": "frames", "max_size": "20 GB"}


# What must not be mixed up


def test_changed_content_under_the_same_name_is_noticed(films: list[str], tmp_path: Path, decoded: list[Any]) -> None:
    path = tmp_path / "film.mp4"
    content = [Path(film).read_bytes() for film in films]
    length = max(map(len, content))
    processor, cache = PllavaVideoProcessor(num_frames=4), MediaCache(tmp_path / "cache")
    expected = [processor.decode(film)[0] for film in films]
    for index in (0, 1, 0, 1):
        # The same size (bytes after the last box are ignored) and the same time of change.
        free = length - len(content[index])
        box = free.to_bytes(4, "big") + b"free" + bytes(max(free - 8, 0)) if free else b""
        path.write_bytes(content[index] + box)
        os.utime(path, ns=(10**18, 10**18))
        with reading_through(cache):
            assert torch.equal(processor.decode(str(path))[0], expected[index])
    assert len(decoded) == 2
    # Under another name, it is the same video.
    path.rename(tmp_path / "moved.mp4")
    with reading_through(cache):
        processor.decode(str(tmp_path / "moved.mp4"))
    assert len(decoded) == 2


@pytest.mark.parametrize(
    ("options", "is_another"),
    [
        ({"size": {"shortest_edge": 24}}, True),
        ({"resample": 2}, True),
        ({"do_resize": False}, True),
        ({"padding_mode": "pad"}, True),
        ({"resize_backend": "torchvision"}, True),
        ({"num_frames": 4}, True),
        ({"do_center_crop": False}, False),
        ({"image_std": [0.3, 0.3, 0.3]}, False),
        ({"pixel_dtype": "bfloat16"}, False),
        ({"num_frames": 8}, False),
    ],
)
def test_frames_are_shared_exactly_by_settings_that_make_the_same(
    options: dict[str, Any], is_another: bool, films: list[str], tmp_path: Path, decoded: list[Any]
) -> None:
    size = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = VideoLlama2VideoProcessor(num_frames=8, **size)
    cache = MediaCache(tmp_path)
    with reading_through(cache):
        processor(videos=[films[0]], return_tensors="pt")
        assert decoded == [films[0]]
        cached = processor(videos=[films[0]], return_tensors="pt", **options)
    assert len(decoded) == 1 + is_another
    assert_same(cached, processor(videos=[films[0]], return_tensors="pt", **options))


def test_frames_that_are_drawn_at_random_stay_random(
    films: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        PllavaVideoProcessor,
        "sample_range",
        lambda self, first, last, num_frames: np.sort(rng.integers(first, last + 1, num_frames)),
    )
    processor, cache = PllavaVideoProcessor(num_frames=4), MediaCache(tmp_path)
    drawn = []
    for _ in range(6):
        with reading_through(cache):
            frames, metadata = processor.decode(films[1])
        drawn.append(tuple(metadata.frames_indices))
        every, _ = load_video(films[1], frame_fn=processor.frame_fn())
        assert torch.equal(frames, torch.from_numpy(every[metadata.frames_indices]).permute(0, 3, 1, 2))
    assert len(set(drawn)) > 3


def test_shots_are_looked_for_once(
    films: list[str], tmp_path: Path, processor_of: Processors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find them, the whole video is decoded; a function of the user's own is asked each time."""
    processor, cache, asked = processor_of("linvt-tiny").video_processor, MediaCache(tmp_path), []

    def find(video: Any) -> list[tuple[int, int]]:
        asked.append(video)
        return [(0, 5), (5, load_video(video)[1].total_num_frames)]

    monkeypatch.setattr("hf_videollm.models.video_processing_linvt.find_shots_by_content", find)
    for options, times in (({}, 1), ({"find_shots": lambda video: find(video)}, 3)):
        (plain,) = processor.read_frames([films[1]], sampling="shots", num_frames=6, **options)
        asked.clear()
        for _ in range(3):
            with reading_through(cache):
                (found,) = processor.read_frames([films[1]], sampling="shots", num_frames=6, **options)
            assert torch.equal(found.frames, plain.frames)
            assert found.times == plain.times
        assert len(asked) == times
        cache = MediaCache(tmp_path / "another")


def test_damaged_files_and_errors_are_not_kept(films: list[str], tmp_path: Path, decoded: list[Any]) -> None:
    path = tmp_path / "cut.mkv"
    path.write_bytes(_matroska(films[1], tmp_path)[:-2000])
    processor, cache = PllavaVideoProcessor(num_frames=8), MediaCache(tmp_path / "cache")
    for _ in range(2):
        with reading_through(cache), pytest.warns(MediaWarning, match="damaged"):
            frames, _ = processor.decode(str(path), on_decode_error="truncate")
        with pytest.warns(MediaWarning, match="damaged"):
            assert torch.equal(frames, processor.decode(str(path), on_decode_error="truncate")[0])
    assert len(decoded) == 2
    with reading_through(cache), pytest.raises(FileNotFoundError, match=r"no_such\.mp4: no such file"):
        processor.decode(str(tmp_path / "no_such.mp4"))


def _matroska(path: str, folder: Path) -> bytes:
    import av

    target = folder / "whole.mkv"
    with av.open(path) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return target.read_bytes()


def test_limits_hold_for_cached_frames(films: list[str], tmp_path: Path) -> None:
    processor, cache = PllavaVideoProcessor(num_frames=8), MediaCache(tmp_path)
    with reading_through(cache):
        processor.decode(films[0])
        with pytest.raises(MediaTooLarge):
            processor.decode(films[0], max_frames=4)


def test_a_cache_that_is_too_small_or_gone_only_costs_time(
    films: list[str], tmp_path: Path, decoded: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    processor, cache = PllavaVideoProcessor(do_resize=False), MediaCache(tmp_path / "c", max_size="1 MiB")
    plain, _ = processor.decode(films[0], num_frames=200)
    for _ in range(2):
        with reading_through(cache):
            assert torch.equal(processor.decode(films[0], num_frames=200)[0], plain)
    assert len(decoded) == 2
    assert caplog.text.count("does not fit") == 1
    shutil.rmtree(tmp_path / "c")
    with reading_through(cache):
        assert torch.equal(processor.decode(films[0], num_frames=200)[0], plain)
