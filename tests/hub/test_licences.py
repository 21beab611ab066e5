"""A checkpoint inherits the licences of its sources: they are found, named when unknown, and never loosened unasked."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_videollm import default_checkpoint
from hf_videollm.hub.licence_terms import HUB_LICENCES, terms_of
from hf_videollm.hub.licences import LicenceError, bundled_name, check_licence, known_sources, licence_of
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.origin import ORIGIN_FILE, OriginError, write_origin

ROWS = {**known_sources()["models"], **known_sources()["datasets"]}


def hub_folder(parent: Path, name: str, licence: str | None = None) -> Path:
    """A folder as the Hub's cache has it, with a model card if a licence is given."""
    folder = parent / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return folder


def made_from(parent: Path, *places: Path) -> Path:
    folder = parent / "made"
    folder.mkdir()
    write_origin(folder, "a test", [("source", place) for place in places])
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_every_known_licence_says_where_it_was_read(name: str) -> None:
    row: dict[str, Any] = ROWS[name] or {}
    assert set(row) <= {"licence", "licence_name", "licence_link", "also", "made_of", "data", "read", "note"}
    assert row.get("licence") in {*HUB_LICENCES, "none", None}
    assert ("licence" in row) is ("read" in row)
    assert row.get("licence") != "other" or {"licence_name", "licence_link"} <= set(row)


def test_what_sources_are_made_of_is_in_the_table_and_without_circles() -> None:
    def depth(name: str, above: tuple[str, ...] = ()) -> int:
        assert name not in above, f"{name} is made of itself"
        return 1 + max((depth(one, (*above, name)) for one in (ROWS[name] or {}).get("made_of", ())), default=0)

    assert max(depth(name) for name in known_sources()["models"]) >= 3
    data = {one for row in ROWS.values() for one in (row or {}).get("data", ())}
    assert data <= set(known_sources()["datasets"])


def test_every_bundled_checkpoint_is_recognised_by_its_weights(tmp_path: Path) -> None:
    for name, folder in bundled_checkpoints().items():
        assert bundled_name(folder) == name
        assert licence_of(folder).suggested == "apache-2.0"
    copy = shutil.copytree(default_checkpoint(), tmp_path / "another-name")
    assert bundled_name(copy) == "pllava-tiny"
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert bundled_name(copy) is None
    assert not licence_of(copy).is_recorded


def test_the_chain_reaches_tower_language_model_and_data(tmp_path: Path) -> None:
    chain = licence_of(made_from(tmp_path, hub_folder(tmp_path, "llava-hf/llava-v1.6-vicuna-7b-hf")))
    found = {source.name: source.licence for source in chain.sources}
    assert found["llava-hf/llava-v1.6-vicuna-7b-hf"] == "llama2"
    assert found["openai/clip-vit-large-patch14-336"] == "mit"
    assert found["lmsys/vicuna-7b-v1.5"] == "llama2"
    assert found["liuhaotian/LLaVA-Instruct-150K"] is None
    assert chain.suggested == "llama2"
    assert chain.unknown == ("liuhaotian/LLaVA-Instruct-150K",)
    with pytest.raises(LicenceError, match=r"apache-2\.0 is looser than llama2, the licence of llava-hf/llava"):
        check_licence(chain, "apache-2.0")
    check_licence(chain, "llama2")
    check_licence(chain, "apache-2.0", override=True)


def test_a_source_without_a_licence_gives_no_rights(tmp_path: Path) -> None:
    """PLLaVA's page states none: whoever converts it may not state one without asking."""
    chain = licence_of(made_from(tmp_path, hub_folder(tmp_path, "ermu2001/pllava-7b")))
    assert chain.suggested == "unknown"
    with pytest.raises(LicenceError, match="ermu2001/pllava-7b states no licence"):
        check_licence(chain, "llama2")
    check_licence(chain, "unknown")
    check_licence(chain, "llama2", override=True)


def test_a_non_commercial_base_stays_non_commercial(tmp_path: Path) -> None:
    chain = licence_of(made_from(tmp_path, hub_folder(tmp_path, "DAMO-NLP-SG/VideoLLaMA2-7B-16F")))
    assert chain.is_non_commercial
    assert chain.suggested == "other"
    with pytest.raises(LicenceError, match="non-commercial"):
        check_licence(chain, "apache-2.0")
    check_licence(chain, "cc-by-nc-4.0")
    check_licence(chain, "other", name="my-terms")


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "llama3.1", "gpl-3.0", "cc-by-nc-nd-4.0", "apple-amlr", "gemma"])
def test_the_licence_of_a_sources_own_card_counts(licence: str, tmp_path: Path) -> None:
    chain = licence_of(made_from(tmp_path, hub_folder(tmp_path, "someone/model", licence)))
    assert chain.suggested == licence
    check_licence(chain, licence)
    for loose in ("mit", "apache-2.0", "cc-by-4.0"):
        with pytest.raises(LicenceError, match=f"{loose} is looser than {licence}"):
            check_licence(chain, loose)


def test_permissive_licences_may_replace_each_other(tmp_path: Path) -> None:
    """A control: the check refuses what is looser, and nothing else."""
    places = [hub_folder(tmp_path, f"someone/{licence}", licence) for licence in ("mit", "apache-2.0", "bsd-3-clause")]
    chain = licence_of(made_from(tmp_path, *places))
    assert chain.suggested == "apache-2.0"
    for licence in ("mit", "apache-2.0", "llama2", "cc-by-nc-4.0"):
        check_licence(chain, licence)


def test_two_licences_with_terms_of_their_own_have_no_common_one(tmp_path: Path) -> None:
    places = [hub_folder(tmp_path, f"someone/{licence}", licence) for licence in ("llama2", "gemma")]
    chain = licence_of(made_from(tmp_path, *places))
    assert chain.suggested == "other"
    with pytest.raises(LicenceError, match="llama2 is looser than gemma"):
        check_licence(chain, "llama2")


def test_an_unknown_source_is_named_and_hides_nothing(tmp_path: Path) -> None:
    places = [hub_folder(tmp_path, "someone/new-model"), hub_folder(tmp_path, "someone/nc", "cc-by-nc-4.0")]
    chain = licence_of(made_from(tmp_path, *places))
    assert chain.unknown == ("someone/new-model",)
    assert chain.suggested == "unknown"
    with pytest.raises(LicenceError, match="someone/nc"):
        check_licence(chain, "mit")
    check_licence(chain, "cc-by-nc-4.0")


def test_sources_that_the_user_names_or_a_card_names_are_read(tmp_path: Path) -> None:
    assert not licence_of(tmp_path).is_recorded
    assert licence_of(tmp_path, base_models=["google/siglip-so400m-patch14-384"]).suggested == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nbase_model: llava-hf/llava-v1.6-vicuna-7b-hf\n---\n")
    assert licence_of(tmp_path).suggested == "llama2"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("apache2", r"unknown to the Hub: did you mean apache-2\.0"),
        ("other", "needs the name of the licence"),
        ("", "unknown to the Hub"),
    ],
)
def test_a_wrong_licence_is_an_error_in_one_line(stated: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LicenceError, match=message) as caught:
        check_licence(licence_of(tmp_path), stated)
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ORIGIN_FILE).write_text("{")
    with pytest.raises(OriginError, match="damaged"):
        licence_of(tmp_path)


def test_terms_are_known_for_all_licences_but_two() -> None:
    assert {name for name in HUB_LICENCES if terms_of(name) is None} == {"other", "unknown"}
    assert terms_of("no such licence") is None
