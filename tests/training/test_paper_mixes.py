"""The mixes of the papers' stages: each can be read, and FTFV's strategies take the shares of its Table 2."""

import csv
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import yaml

from hf_videollm.data.mix import MixError
from hf_videollm.data.mix_rows import read_source
from hf_videollm.data.record import check_record
from hf_videollm.training.mixed import is_without_data, open_mix
from hf_videollm.training.paper_mixes import FOLDER, load_recipe_mix, mix_files
from hf_videollm.training.recipe import Recipe, RecipeError, load_recipe
from hf_videollm.training.recipe_names import PAPERS, recipe_files

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "formats"
OF_FORMAT = {
    ("L", ".json"): "llava.json",
    ("V", ".json"): "videochat2.json",
    ("C", ".json"): "video_chatgpt.json",
    ("S", ".jsonl"): "sharegptvideo.jsonl",
    ("Q", ".json"): "open_qa.json",
    ("Q", ".csv"): "nextqa.csv",
    ("K", ".csv"): "webvid.csv",
    ("K", ".jsonl"): "internvid.jsonl",
    ("A", ".json"): "wavcaps.json",
    ("A", ".csv"): "clotho.csv",
    ("G", ".csv"): "esc50.csv",
    ("D", ".json"): "avsd.json",
    ("T", ".json"): "vtimellm.json",
    ("M", ".json"): "music_avqa.json",
}
OF_SOURCE = {
    "vggsound": "vggsound.csv",
    "avqa": "avqa.json",
    "audiocaps": "audiocaps.csv",
    "musiccaps": "musiccaps.csv",
    "panda": "panda.csv",
}


def lay_out(mix: Path, folder: Path) -> None:
    """Put a small file in the layout of its data set where the mix expects each file."""
    for source in yaml.safe_load(mix.read_text())["sources"]:
        annotation = folder / source["annotation"]
        annotation.parent.mkdir(parents=True, exist_ok=True)
        (folder / source["root"]).mkdir(parents=True, exist_ok=True)
        if source["source"] == "clotho_aqa":
            annotation.write_text("file_name,QuestionText,answer,confidence\na.wav,Does a dog bark?,yes,yes\n")
            continue
        example = OF_SOURCE.get(source["source"], OF_FORMAT[source["format"], annotation.suffix])
        shutil.copy(EXAMPLES / example, annotation)


@pytest.mark.parametrize("name", sorted(mix_files()))
def test_every_mix_reads_its_data_sets(name: str, tmp_path: Path) -> None:
    lay_out(mix_files()[name], tmp_path)
    mix = load_recipe_mix(Recipe(mix=name, data_root=str(tmp_path)))
    for spec in mix.sources:
        # The example of Video-ChatGPT's form looks for its videos, which are not there.
        if spec.format == "C":
            continue
        rows = list(islice(read_source(spec)[1], 2))
        assert rows, spec.source
        check_record({key: rows[0][key] for key in rows[0] if not key.startswith("chosen_by") and key != "files"})
        assert all(path.startswith(str(tmp_path)) for row in rows for path in row["files"]), spec.source
    if mix.batches is not None:
        found = {
            row["chosen_by_modality"] for spec in mix.sources if spec.format != "C" for row in read_source(spec)[1]
        }
        assert found == set(mix.batches)


def test_every_recipe_of_a_paper_names_its_mix() -> None:
    names = [name for name, file in recipe_files().items() if file.is_relative_to(PAPERS)]
    assert {name: load_recipe(name).mix for name in names} == {name: name for name in names}
    assert set(mix_files()) - set(names) == {"ftfv/instruct_s3_iv", "ftfv/pretrain_s2_s3_iv"}
    assert all(path.is_relative_to(FOLDER) for path in mix_files().values())


@pytest.mark.parametrize(
    ("name", "videos"),
    [
        ("ftfv/align", {}),
        ("ftfv/pretrain", {}),
        ("ftfv/instruct", {}),
        ("ftfv/videos_only", {"videoinstruct": 0.1}),
        ("ftfv/instruct_s3_iv", {"videoinstruct": 0.1}),
        ("ftfv/pretrain_s2_s3_iv", {"valley": 0.1}),
    ],
)
def test_the_strategies_of_ftfv(name: str, videos: dict[str, float], tmp_path: Path) -> None:
    """S4-V adds a stage of videos alone; the others add the same videos to the images of stages 3, or 2 and 3."""
    lay_out(mix_files()[name], tmp_path)
    mix = load_recipe_mix(Recipe(mix=name, data_root=str(tmp_path)))
    assert {spec.source: spec.fraction for spec in mix.sources if spec.fraction < 1} == videos
    images = name.partition("_s")[0]
    if images != name:
        lay_out(mix_files()[images], tmp_path)
        own = load_recipe_mix(Recipe(mix=images, data_root=str(tmp_path))).sources
        assert [spec for spec in mix.sources if spec.source not in videos] == list(own)


def test_shares_are_changed_by_the_recipe(tmp_path: Path) -> None:
    lay_out(mix_files()["ftfv/videos_only"], tmp_path)
    recipe = load_recipe("ftfv/videos_only", ["fractions.videoinstruct=0.6", f"data_root={tmp_path}"])
    assert load_recipe_mix(recipe).sources[0].fraction == 0.6
    assert load_recipe_mix(replace(recipe, fractions=None)).sources[0].fraction == 0.1
    for fractions, message in (
        ({"videoinstuct": 0.3}, "did you mean videoinstruct"),
        ({"videoinstruct": 0}, "must be a share above 0"),
        ({"videoinstruct": "most"}, "must be a share above 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe_mix(replace(recipe, fractions=fractions))


def test_the_folder_of_the_data_is_asked_for(tmp_path: Path) -> None:
    recipe = load_recipe("iva/instruct")
    assert is_without_data(recipe)
    with pytest.raises(RecipeError, match="--set data_root=FOLDER"):
        open_mix(recipe)
    with pytest.raises(MixError, match=r"there is no folder .*gone"):
        open_mix(replace(recipe, data_root=str(tmp_path / "gone")))
    with pytest.raises(MixError, match=r"there is no file .*VideoInstruct100K\.json"):
        open_mix(replace(recipe, data_root=str(tmp_path)))
    # Other data take the place of the paper's.
    assert open_mix(replace(recipe, records="mine.jsonl")) is None
    with (tmp_path / "k.csv").open("w") as file:
        csv.writer(file).writerows([["video", "caption"], ["a.mp4", "a dog"]])
    (tmp_path / "own.yaml").write_text("sources: [{annotation: k.csv}]")
    with pytest.raises(RecipeError, match="records and a mix"):
        open_mix(replace(recipe, mix=str(tmp_path / "own.yaml"), records="mine.jsonl"))
