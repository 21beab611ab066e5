"""Mix files: what they choose, in which order, and what they refuse before a row is read."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from hf_videollm.data.bad_media import BadFile, BadMediaLog, TooManyBadMediaError, summary
from hf_videollm.data.mix import Mix, MixError, load_mix
from hf_videollm.data.mix_plan import PreparedMix, ordered, prepare_mix
from hf_videollm.data.parsed_files import DataError
from hf_videollm.data.record import check_record

NUM_VIDEOS = 40
TYPES = ("vqa", "reasoning")
MakeMix = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources about 40 videos, with one to five rows each, and sounds, pictures and texts."""
    place = tmp_path_factory.mktemp("mix")
    (place / "m").mkdir()
    rng = random.Random(0)
    rows = []
    for video in range(NUM_VIDEOS):
        (place / "m" / f"v{video}.mp4").touch()
        rows += [{"q": f"q{n}?", "a": "x", "video_id": f"v{video}"} for n in range(rng.randint(1, 5))]
    rng.shuffle(rows)
    (place / "c.json").write_text(json.dumps(rows))
    for name in TYPES:
        part = place / "video" / name / "set"
        part.mkdir(parents=True)
        shown = [{"video": f"v{n % NUM_VIDEOS}.mp4", "QA": [{"q": "q?", "a": "b"}]} for n in range(60)]
        (part / "train.json").write_text(json.dumps(shown))
    sounds = [{"audio": f"s{n}.wav", "caption": "rain"} for n in range(7)]
    (place / "a.json").write_text(json.dumps(sounds))
    for n in range(7):
        (place / "m" / f"s{n}.wav").touch()
    return place


@pytest.fixture
def make(folder: Path, tmp_path: Path) -> MakeMix:
    def write(**content: Any) -> Path:
        path = folder / f"{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def prepare(path: Path) -> PreparedMix:
    return prepare_mix(load_mix(path), cache_dir=str(path.parent / "cache"))


def ids(mix: PreparedMix, epoch: int = 0) -> list[str]:
    found: list[str] = mix.rows(epoch)["id"][:]
    return found


CHATGPT = {"annotation": "c.json", "root": "m"}
VQA, REASONING = ({"annotation": f"video/{name}/set/train.json", "root": "m"} for name in TYPES)
SOUNDS = {"annotation": "a.json", "root": "m"}


def videos_of(mix: PreparedMix) -> dict[str, int]:
    """Video -> rows of it."""
    blocks = (block for row in mix.rows() for message in row["messages"] for block in message["content"])
    return Counter(block["path"] for block in blocks if block["type"] == "video")


# What is chosen.


def test_a_fraction_takes_videos_with_all_their_rows(make: MakeMix) -> None:
    chosen = {}
    for fraction in (0.1, 0.3, 0.6, 1.0):
        chosen[fraction] = videos_of(prepare(make(fraction=fraction, sources=[CHATGPT])))
        assert len(chosen[fraction]) == round(fraction * NUM_VIDEOS)
    assert sum(chosen[1.0].values()) == len(set(ids(prepare(make(sources=[CHATGPT])))))
    for small, large in ((0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        # The smaller one is a part of the larger one; a video comes with all its rows.
        assert chosen[small].items() <= chosen[large].items()


def test_a_choice_depends_on_the_seed_and_not_on_the_order_of_the_file(
    make: MakeMix, folder: Path, tmp_path: Path
) -> None:
    first = videos_of(prepare(make(fraction=0.3, sources=[CHATGPT])))
    assert videos_of(prepare(make(fraction=0.3, seed=1, sources=[CHATGPT]))).keys() != first.keys()
    rows = json.loads((folder / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(rows[::-1]))
    turned = {**CHATGPT, "annotation": str(tmp_path / "c.json")}
    assert videos_of(prepare(make(fraction=0.3, sources=[turned]))) == first


def test_numbers_of_rows(make: MakeMix) -> None:
    ten, twenty = (set(ids(prepare(make(sources=[{**VQA, "max_samples": n}])))) for n in (10, 20))
    assert (len(ten), len(twenty)) == (10, 20)
    assert ten < twenty
    mix = prepare(make(sources=[{**VQA, "repeat": 3, "max_samples": 4}]))
    assert sorted(Counter(ids(mix)).values()) == [3, 3, 3, 3]


def test_so_many_rows_of_each_type(make: MakeMix) -> None:
    mix = prepare(make(per_type=10, sources=[VQA, REASONING]))
    assert [counts.types for counts in mix.sources] == [{"vqa": 10}, {"reasoning": 10}]
    named = prepare(make(per_type={"vqa": 5, "reasoning": 0}, sources=[VQA, REASONING]))
    assert [counts.types for counts in named.sources] == [{"vqa": 5}, {}]
    renamed = prepare(make(per_type={"all": 7}, sources=[{**VQA, "type": "all"}, {**REASONING, "type": "all"}]))
    assert sum(counts.types["all"] for counts in renamed.sources) == 7
    for content, message in (
        ({"vqa": 61, "reasoning": 0}, "asks for 61 rows of type 'vqa'; there are 60"),
        ({"vqa": 5}, "no number for 60 rows of type 'reasoning'"),
        ({"vqa": 5, "reasonings": 5}, "did you mean reasoning"),
    ):
        with pytest.raises(MixError, match=message):
            prepare(make(per_type=content, sources=[VQA, REASONING]))


def test_rows_are_canonical_records(make: MakeMix, folder: Path) -> None:
    mix = prepare(make(sources=[{**VQA, "task": "caption", "use_audio": True, "max_samples": 2}]))
    for row in mix.rows():
        assert check_record(row) == row
        block = row["messages"][0]["content"][0]
        assert (row["task"], row["source"], block["use_audio"]) == ("caption", "vqa/set", True)
        assert Path(block["path"]).parent == folder / "m"


# The order.


def test_an_epoch_has_every_row_and_the_next_one_another_order(make: MakeMix) -> None:
    mix = prepare(make(sources=[CHATGPT, VQA]))
    first, again, second = mix.order(), mix.order(), mix.order(1)
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second) == sorted(mix.chosen)
    plain = prepare(make(shuffle=False, sources=[CHATGPT, VQA]))
    assert plain.order() == plain.order(1) == list(plain.chosen)


def keep(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 8])
def test_workers_do_not_change_the_order(num_workers: int, make: MakeMix) -> None:
    mix = prepare(make(fraction=0.5, sources=[CHATGPT]))
    loader = DataLoader(mix.rows(), batch_size=4, num_workers=num_workers, collate_fn=keep)
    assert [name for batch in loader for name in batch] == ids(mix)


@pytest.mark.parametrize("num_processes", [1, 2, 8])
def test_the_parts_of_all_processes_are_the_whole(num_processes: int, make: MakeMix) -> None:
    """As accelerate, which the trainer uses, divides batches."""
    content = {"batches": {"audio_visual": 2, "audio": 1, "video": 1}, "sources": av_sources()}
    mix = prepare(make(**content))
    order = mix.order()[: 8 * num_processes * 2]
    sampler = BatchSampler(SequentialSampler(order), batch_size=8, drop_last=True)
    parts = [list(BatchSamplerShard(sampler, num_processes, index)) for index in range(num_processes)]
    interleaved = [batch for step in zip(*parts, strict=True) for batch in step]
    assert interleaved == list(sampler)
    for part in parts:
        for batch in part:
            kinds = Counter(mix.modalities[order[at]] for at in batch)
            assert kinds == {"audio_visual": 4, "audio": 2, "video": 2}


def av_sources() -> list[dict[str, Any]]:
    return [{**CHATGPT, "use_audio": True}, SOUNDS, {**VQA, "use_audio": False}]


def test_ratios_of_modalities(make: MakeMix) -> None:
    """VideoLLaMA2's audio-visual stage: two rows that are seen and heard, one sound, one video without its sound."""
    ratio = {"audio_visual": 2, "audio": 1, "video": 1}
    mix = prepare(make(batches=ratio, sources=av_sources()))
    order = mix.order()
    assert mix.group == 4
    assert len(order) % 4 == 0
    for start in range(0, len(order), 4):
        kinds = [mix.modalities[row] for row in order[start : start + 4]]
        assert kinds == ["audio_visual", "audio_visual", "audio", "video"]
    counts = Counter(order)
    by_kind = defaultdict(list)
    for row in mix.chosen:
        by_kind[mix.modalities[row]].append(counts[row])
    # An epoch is as long as the first modality; the sounds come again and again, all equally often.
    assert set(by_kind["audio_visual"]) <= {1, 2}
    assert sum(by_kind["audio_visual"]) - len(by_kind["audio_visual"]) <= 1
    assert max(by_kind["audio"]) - min(by_kind["audio"]) <= 1
    assert min(by_kind["audio"]) > 1


def test_ratios_without_shuffling() -> None:
    """By hand: 3 of the main modality, in pairs, and 2 others."""
    mix = Mix(Path("m"), (), batches={"video": 2, "text": 1}, shuffle=False)
    modalities = ["video", "video", "video", "text", "text"]
    assert ordered(range(5), modalities, mix) == [0, 1, 3, 2, 0, 4]


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        ({"audio_visual": 1, "audio": 1}, "batches has no number for video"),
        ({"audio_visual": 1, "audio": 1, "video": 1, "image": 1}, "batches names image, of which there is no row"),
    ],
)
def test_ratios_that_do_not_fit_the_data(ratio: dict[str, int], message: str, make: MakeMix) -> None:
    with pytest.raises(MixError, match=message):
        prepare(make(batches=ratio, sources=av_sources()))


def test_the_record_of_a_run_names_sources_seeds_and_digests(make: MakeMix) -> None:
    path = make(seed=5, sources=[{**VQA, "max_samples": 3}, {**REASONING, "seed": 6}])
    described = json.loads(json.dumps(prepare(path).describe()))
    assert (described["seed"], [source["seed"] for source in described["sources"]]) == (5, [5, 6])
    assert [source["source"] for source in described["sources"]] == ["vqa/set", "reasoning/set"]
    assert len(described["sources"][0]["sha256"]) == 64
    assert described["sources"][0]["counts"]["chosen"] == 3


# Missing media.


def test_missing_files_are_left_out_up_to_a_share(make: MakeMix, folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for video in range(NUM_VIDEOS - 1):
        (few / f"v{video}.mp4").touch()
    source = {**VQA, "root": str(few)}
    message = r"1 of 60 rows .* more than max_bad 1\.00% allows: .*v39\.mp4 \(missing\)"
    with pytest.raises(TooManyBadMediaError, match=message):
        prepare(make(sources=[source]))
    mix = prepare(make(max_bad=0.02, sources=[source]))
    assert (mix.sources[0].chosen, mix.sources[0].missing, len(mix.missing)) == (59, 1, 1)
    assert not any(path.endswith("v39.mp4") for path in videos_of(mix))
    assert summary(mix.missing, 60) == "1 of 60 rows (1.67%) were left out: 1 with missing, 0 with broken media"


def test_no_row_is_left(make: MakeMix) -> None:
    with pytest.raises(MixError, match="no row is left"):
        prepare(make(per_type={"vqa": 0}, sources=[VQA]))


def test_a_log_of_several_processes_counts_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "bad.jsonl"
    logs = [BadMediaLog(path, 100, 0.03, [BadFile("0", "0.mp4", "missing")]) for _ in range(2)]
    for log in logs:
        log.add(BadFile("1", "1.mp4", "cut"))
        log.add(BadFile("0", "0.mp4", "missing"))
    logs[0].add(BadFile("2", "2.mp4", "cut"))
    assert logs[1].ids() == {"0", "1", "2"}
    assert len(path.read_text().splitlines()) == 2
    with path.open("a") as file:
        file.write('{"id": "9", ')  # a killed process
    assert len(logs[0].all()) == 3
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(TooManyBadMediaError, match=r"4 of 100 rows .*3\.00%"):
        logs[1].add(BadFile("3", "3.mp4", "cut"))


# What is refused.

REFUSED: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no file": ("", "no_such"),
    "no mapping": ("3", "a mix is a mapping"),
    "no yaml": ("a: [", "the mix cannot be read"),
    "twice": ("seed: 1\nseed: 2\n", "line 2: the key 'seed' stands twice"),
    "no sources": ({}, "sources must be a list"),
    "empty": ({"sources": []}, "sources must be a list"),
    "key": ({"source": [CHATGPT]}, "no key 'source': did you mean sources"),
    "source": ({"sources": ["c.json"]}, r"sources\[0\] must be a mapping"),
    "source key": ({"sources": [{**CHATGPT, "fractions": 1}]}, r"sources\[0\]: there is no key 'fractions': did you"),
    "no annotation": ({"sources": [{"root": "m"}]}, r"sources\[0\] has no annotation"),
    "annotation": ({"sources": [CHATGPT, {"annotation": "d.json"}]}, r"sources\[1\]: annotation: there is no file"),
    "root": ({"sources": [{**CHATGPT, "root": "n"}]}, r"sources\[0\]: root: there is no folder .*n"),
    "root name": (
        {"roots": {"films": "m"}, "sources": [{**CHATGPT, "root": "film"}]},
        "or a name in roots: did you mean films",
    ),
    "roots": ({"roots": {"films": "n"}, "sources": [CHATGPT]}, r"roots\.films: there is no folder"),
    "roots list": ({"roots": ["m"], "sources": [CHATGPT]}, "roots must map names"),
    "zero": ({"sources": [{**CHATGPT, "fraction": 0}]}, r"sources\[0\]: fraction is 0: give a share above 0"),
    "zero for all": ({"fraction": 0.0, "sources": [CHATGPT]}, r"fraction is 0\.0"),
    "percent": ({"fraction": 30, "sources": [CHATGPT]}, "fraction is 30"),
    "nan": ({"fraction": float("nan"), "sources": [CHATGPT]}, "fraction is nan"),
    "text": ("fraction: 1e-1\nsources: [{annotation: c.json}]", "fraction must be a number such as 0.1, not '1e-1'"),
    "seed": ({"seed": "a", "sources": [CHATGPT]}, "seed must be a whole number"),
    "shuffle": ({"shuffle": 1, "sources": [CHATGPT]}, "shuffle must be true or false"),
    "max_bad": ({"max_bad": 2, "sources": [CHATGPT]}, "max_bad is 2"),
    "repeat": ({"sources": [{**CHATGPT, "repeat": 0}]}, "repeat must be a whole number, 1 or more"),
    "max_samples": ({"sources": [{**CHATGPT, "max_samples": 1.5}]}, "max_samples must be a whole number"),
    "no max_samples": ({"sources": [{**CHATGPT, "max_samples": None}]}, "max_samples must be a whole number"),
    "per_type": ({"per_type": {}, "sources": [CHATGPT]}, "per_type is empty"),
    "per_type number": ({"per_type": {"vqa": -1}, "sources": [VQA]}, r"per_type\.vqa must be"),
    "batches": ({"batches": {"film": 1}, "sources": [CHATGPT]}, "batches names the modality 'film'"),
    "batches number": ({"batches": {"video": 0}, "sources": [CHATGPT]}, r"batches\.video must be"),
    "task": ({"sources": [{**CHATGPT, "task": "captions"}]}, "did you mean caption"),
    "format": ({"sources": [{**CHATGPT, "format": "video_chatgp"}]}, r"sources\[0\]: there is no format"),
    "options": ({"sources": [{**VQA, "options": {"order": "as_is"}}]}, "has no option 'order'"),
    "option list": ({"sources": [{**VQA, "options": ["a"]}]}, "options must be a mapping"),
    "names": ({"sources": [CHATGPT, CHATGPT]}, r"sources\[0\] and sources\[1\] are both called 'c'"),
    "use_audio": ({"sources": [{**CHATGPT, "use_audio": "yes"}]}, "use_audio must be true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_before_a_row_is_read(name: str, make: MakeMix, folder: Path) -> None:
    content, message = REFUSED[name]
    path = make(**content) if isinstance(content, dict) else folder / "no_such.yaml"
    if isinstance(content, str) and content:
        path = folder / "text.yaml"
        path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_mix(path)
    assert "\n" not in str(error.value)


def test_keys_of_an_anchor_may_be_overwritten(folder: Path) -> None:
    path = folder / "anchor.yaml"
    first = "annotation: video/vqa/set/train.json, root: m, fraction: 0.5"
    path.write_text(f"sources:\n- &a {{{first}}}\n- {{<<: *a, fraction: 0.25, source: b}}\n")
    assert [source.fraction for source in load_mix(path).sources] == [0.5, 0.25]


def test_a_list_alone_is_the_list_of_sources(folder: Path) -> None:
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump([VQA]))
    assert load_mix(path).sources[0].format == "V"


def test_rows_without_answers_are_named_before_anything_is_chosen(make: MakeMix, tmp_path: Path) -> None:
    rows = [{"q": "q", "a": "a", "video_id": "v1"}, {"q": "q", "video_id": "v1"}]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"c\.json, row 1: the field 'a' is missing"):
        prepare(make(sources=[{"annotation": str(tmp_path / "c.json"), "root": "m"}]))
