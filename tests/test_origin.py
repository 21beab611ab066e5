"""What a checkpoint was made from is recorded in its folder, without private paths, and a damaged record is refused."""

import json
from pathlib import Path

import pllava_sources
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_videollm import save_checkpoint
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.origin import (
    ORIGIN_FILE,
    Origin,
    OriginError,
    SourceRecord,
    carry_record,
    read_origin,
    source_record,
    write_origin,
)

CARD = """---
license: other
license_name: some-terms
license_link: LICENSE
base_model: [org/tower, org/llm]
datasets: org/data
---
# A model
"""


def test_a_folder_of_the_hubs_cache_tells_id_and_commit(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--a-model" / "snapshots" / ("ab" * 20)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    record = source_record(folder, "checkpoint")
    assert (record.name, record.revision) == ("org/a-model", "ab" * 20)
    assert (record.licence, record.licence_name, record.licence_link) == ("other", "some-terms", "LICENSE")
    assert (record.base_models, record.datasets) == (("org/tower", "org/llm"), ("org/data",))


@pytest.mark.parametrize("card", [None, "no metadata\n", "---\nlicense: [\n---\n", "---\n- a list\n---\n"])
def test_any_other_folder_is_named_without_its_path(card: str | None, tmp_path: Path) -> None:
    """A card that is missing or damaged says nothing, and is no error: it belongs to somebody else."""
    folder = tmp_path / "secret-place" / "model"
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    assert source_record(folder, "base") == SourceRecord("base", "model")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for name in ("tower", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "tower" / "README.md").write_text(CARD)
    places = [("vision tower", tmp_path / "tower"), ("base", None)]
    written = write_origin(tmp_path / "model", "a command", places, relation="merge", notes=["A note."])
    assert read_origin(tmp_path / "model") == written
    assert written == Origin("a command", "merge", (source_record(tmp_path / "tower", "vision tower"),), ("A note.",))
    assert str(tmp_path) not in (tmp_path / "model" / ORIGIN_FILE).read_text()
    assert read_origin(tmp_path / "tower") is None


def test_the_sources_of_sources_are_kept(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    write_origin(tmp_path / "second", "convert", [("checkpoint", tmp_path / "first")])
    origin = write_origin(tmp_path / "third", "quantize", [("base", tmp_path / "second")], relation="quantized")
    assert [(record.role, record.name) for record in origin.sources] == [("base", "second"), ("checkpoint", "first")]


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "[cc-by-nc-4.0]", None])
def test_a_licence_is_not_lost_where_nothing_was_recorded(licence: str | None, tmp_path: Path) -> None:
    """A model that is loaded, trained and saved comes from where it was loaded. The control has no card."""
    for name in ("loaded", "saved"):
        (tmp_path / name).mkdir()
    if licence is not None:
        (tmp_path / "loaded" / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    carry_record(tmp_path / "loaded", tmp_path / "saved", "training")
    record = SourceRecord("checkpoint", "loaded", licence="cc-by-nc-4.0")
    assert read_origin(tmp_path / "saved") == (None if licence is None else Origin("training", "finetune", (record,)))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"made_by": "x", "relation": "finetune", "sources": [1]}'])
def test_a_damaged_record_is_an_error_that_names_it(text: str, tmp_path: Path) -> None:
    (tmp_path / ORIGIN_FILE).write_text(text)
    with pytest.raises(OriginError, match=r"origin\.json is damaged .*--base-model"):
        read_origin(tmp_path)


def test_a_conversion_records_its_sources_and_saving_keeps_them(tmp_path: Path) -> None:
    source = pllava_sources.write_source(
        tmp_path / "official", pllava_sources.released_tensors(), pllava_sources.raw_config()
    )
    pllava_sources.write_tokenizer(source)
    convert_pllava(source, tmp_path / "converted")
    origin = read_origin(tmp_path / "converted")
    assert origin == Origin("hf-videollm convert pllava", "finetune", (SourceRecord("checkpoint", "official"),))
    assert json.loads((tmp_path / "converted" / ORIGIN_FILE).read_text())["sources"][0]["name"] == "official"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted")
    save_checkpoint(model, AutoProcessor.from_pretrained(tmp_path / "converted"), tmp_path / "again")
    assert read_origin(tmp_path / "again") == origin
