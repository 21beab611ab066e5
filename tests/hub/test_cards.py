"""A model card says what the files say: each number is traced to its source, and one changed by hand is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import hf_videollm
from hf_videollm import CheckpointError
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.costs.presets import find_preset
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.hub.card import (
    CardError,
    CardNumberError,
    CardOptions,
    LicenceError,
    card_pictures,
    check_card,
    make_card,
    render_card,
    validate_card,
    write_card,
)
from hf_videollm.hub.card_numbers import FactBook, RenderedCard, check_numbers, shown_as
from hf_videollm.hub.licences import licence_of
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.origin import write_origin

REVISION = "files-0123456789ab"
# Designs at the sizes of their papers, and the official checkpoint that they could have been converted from.
PAPER_SIZES = {
    "pllava": "ermu2001/pllava-13b",
    "videollama2": "DAMO-NLP-SG/VideoLLaMA2-7B-16F",
    "videollama2.1": "DAMO-NLP-SG/VideoLLaMA2.1-7B-16F",
    "videollama2_av": "DAMO-NLP-SG/VideoLLaMA2.1-7B-AV",
    "iva": "lmsys/vicuna-7b-v1.5",
    "ftfv": "Qwen/Qwen-VL",
}
SECTIONS = (
    "For whom",
    "Use it",
    "Frames and answers",
    "What it costs",
    "How it was checked",
    "Training",
    "Limits",
    "Licence",
    "Citation",
    "Where the numbers come from",
)


@pytest.fixture(scope="module")
def cards() -> dict[str, RenderedCard]:
    """The cards of all bundled checkpoints."""
    return {
        name: make_card(folder, CardOptions(repo_id=f"me/{name}", revision=REVISION))
        for name, folder in bundled_checkpoints().items()
    }


def paper_folder(parent: Path, preset: str, official: str) -> Path:
    """A folder with the configuration of a paper's model and the record of a conversion; it has no weights."""
    folder = parent / "converted"
    find_preset(preset).config().save_pretrained(folder)
    source = parent / f"models--{official.replace('/', '--')}" / "snapshots" / ("1" * 40)
    source.mkdir(parents=True)
    write_origin(folder, "hf-videollm convert", [("checkpoint", source)])
    return folder


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_the_metadata_is_what_the_hub_wants(name: str, cards: dict[str, RenderedCard]) -> None:
    validate_card(cards[name].text)
    data = ModelCard(cards[name].text).data
    assert (data.pipeline_tag, data.library_name, data.license) == ("video-text-to-text", "transformers", "apache-2.0")
    assert data.language == ["en"]
    assert {"hf_videollm", "video"} <= set(data.tags)
    accuracy = json.loads((bundled_checkpoints()[name] / "accuracy.json").read_text())
    assert len(data.eval_results) >= 3
    assert all(f"{result.metric_value / 100:g}"[:4] in json.dumps(accuracy) for result in data.eval_results)


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_a_card_has_every_section_and_its_pictures(name: str, cards: dict[str, RenderedCard]) -> None:
    text = cards[name].text
    positions = [text.index(f"\n## {section}\n") for section in SECTIONS]
    assert positions == sorted(positions)
    pictures = card_pictures(bundled_checkpoints()[name])
    assert set(pictures) == {"architecture.png", "example.png"} == set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))
    for picture in pictures.values():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 100_000
    assert "{{ " not in text
    assert "None" not in text


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_every_number_is_what_its_source_says(name: str, cards: dict[str, RenderedCard]) -> None:
    """The sources are read again."""
    card = cards[name]
    assert len(card.numbers) > 50
    for fact in card.facts:
        assert shown_as(fact.read(), fact.style) == fact.shown, fact
    assert all(stated.shown in card.text.splitlines()[stated.line - 1] for stated in card.numbers)


def test_numbers_are_those_of_files_read_by_hand(cards: dict[str, RenderedCard]) -> None:
    """A control that knows nothing of facts: costs, accuracies and the paper's numbers."""
    text, folder = cards["pllava-tiny"].text, bundled_checkpoints()["pllava-tiny"]
    info, accuracy = describe_checkpoint(folder), json.loads((folder / "accuracy.json").read_text())
    assert f"| tokens of such a video | {info.tokens_per_video} |" in text
    assert f"| parameters | {info.parameters['total']:,} |" in text
    assert f"| direction | {100 * accuracy['accuracy']['direction']:.1f} % |" in text
    assert f"with the frames shuffled: {100 * accuracy['direction_with_shuffled_frames']:.1f} %" in text
    printed = find_task("mvbench").published["pllava"]["PLLaVA 7B"]["accuracy"]
    assert f"| MVBench | accuracy | {printed} | not measured | not measured |" in text


def test_a_copy_names_no_file_that_it_lacks(tmp_path: Path) -> None:
    """The bundled folder is the control: it has the files, and its card names them as its own."""
    copy, own = tmp_path / "copy", bundled_checkpoints()["iva-tiny"]
    copy.mkdir()
    for file in own.iterdir():
        if file.is_file() and file.name not in ("TRAINING.md", "accuracy.json"):
            shutil.copy(file, copy)
    assert "TRAINING.md beside the weights" in render_card(own)
    assert "- accuracy.json\n" in render_card(own)
    text = render_card(copy)
    assert "TRAINING.md of `iva-tiny` in the package" in text
    assert "- accuracy.json of iva-tiny in the package\n" in text
    assert "beside the weights" not in text


def test_a_folder_may_be_named_by_a_dot(
    cards: dict[str, RenderedCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(bundled_checkpoints()["iva-tiny"], tmp_path / "iva-tiny")
    named = render_card(folder)
    monkeypatch.chdir(folder)
    assert render_card(".") == named
    monkeypatch.chdir(tmp_path)
    assert render_card("iva-tiny/../iva-tiny") == named


def test_a_number_that_a_paper_prints_once_stands_on_the_card_once(cards: dict[str, RenderedCard]) -> None:
    """IVA does not say of which split its numbers are; the package has a task for each."""
    rows = re.findall(r"^\| (LifeQA|WildQA)\b.*$", cards["iva-tiny"].text, re.M)
    assert rows == ["LifeQA", "WildQA"]


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_each_number_that_is_changed_by_hand_is_refused(name: str, cards: dict[str, RenderedCard]) -> None:
    card = cards[name]
    check_numbers(card.text, card)
    lines = card.text.splitlines()
    changed = 0
    for stated in card.numbers:
        if not stated.source or not re.search(r"\d", stated.shown):
            continue
        line = lines[stated.line - 1]
        digit = re.search(r"\d", stated.shown)[0]  # type: ignore[index]
        other = stated.shown.replace(digit, str((int(digit) + 1) % 10), 1)
        wrong = line.replace(stated.shown, other, 1)
        if stated.source.startswith("accuracy.json: command"):
            continue
        with pytest.raises(CardNumberError, match=rf"line {stated.line} of the card states"):
            check_numbers("\n".join([*lines[: stated.line - 1], wrong, *lines[stated.line :]]), card)
        changed += 1
    assert changed > 30


def test_a_sentence_by_hand_may_repeat_numbers_and_add_none(cards: dict[str, RenderedCard]) -> None:
    card = cards["pllava-tiny"]
    check_numbers(card.text + "\nI like that a video costs 128 tokens.\n", card)
    with pytest.raises(CardNumberError, match=r"states 97\.3, and no file backs it: It scores 97\.3"):
        check_numbers(card.text + "\nIt scores 97.3 on everything.\n", card)
    for number, sentence in (("17", "It needs 17GB."), ("3.5", "It is 3.5x faster."), (".97", "Its accuracy is .97.")):
        with pytest.raises(CardNumberError, match=f"states {re.escape(number)}, and no file"):
            check_numbers(f"{card.text}\n{sentence}\n", card)


@pytest.mark.parametrize(
    "text",
    [
        "a video costs 128 tokens",
        "| accuracy | 95.0 |",
        "about 5 GB",
        "1,024",
        "in 2 stages",
        "`num_frames=16`",
        "100%",
        "16GB",
    ],
)
def test_a_number_that_is_typed_into_the_template_is_refused(text: str) -> None:
    with pytest.raises(CardNumberError, match="no file backs it"):
        FactBook().finish(text)


@pytest.mark.parametrize(
    "text",
    [
        "VideoLLaMA2, LLaVA-1.6, Apache-2.0, int8, nf4, 4-bit, 7B and MP4 are names",
        "[a paper](https://arxiv.org/abs/2404.16994)",
        "```python\nx = 16\n```",
    ],
)
def test_names_addresses_and_code_are_no_numbers(text: str) -> None:
    """A control: what has digits and states nothing may stand in a template."""
    assert FactBook().finish(text).text.startswith(text.splitlines()[0])


def test_a_variant_names_its_original_and_what_was_measured(tmp_path: Path) -> None:
    folder = shutil.copytree(hf_videollm.default_checkpoint(), tmp_path / "variant")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    report = {"source": "pllava-tiny", "weight_bytes": 1_900_000, "source_bytes": 4_600_000}
    report["errors"] = {"layers": 28, "mean": 0.08, "largest": 0.09}
    (folder / "quantization_report.json").write_text(json.dumps(report))
    text = render_card(folder, repo_id="me/pllava-tiny-nf4", revision=REVISION, variant="nf4")
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == (["me/pllava-tiny"], "quantized")
    assert data.eval_results is None
    assert data.license == "apache-2.0"
    for line in (
        "weight files of this variant | 1.9 MB",
        "quantized layers | 28",
        "mean relative error of a layer | 8.0 %",
    ):
        assert f"| {line} |" in text
    assert "These numbers are those of the original, not of this variant." in text
    # A folder that `quantize` wrote is a variant also if nobody says so. Any other one is none, as a control.
    for preset in ("consumer-nf4", "a100-bf16", None):
        (folder / "quantization_report.json").write_text(json.dumps({**report, "preset": preset}))
        unsaid = render_card(folder, repo_id="me/any", revision=REVISION)
        assert ("These numbers are those of the original" in unsaid) == (preset is not None)
        assert (ModelCard(unsaid).data.eval_results is None) == (preset is not None)
        assert ("memory of the weights as they are stored here" in unsaid) == (preset is not None)
        assert ("memory of the weights in float32" in unsaid) == (preset is None)
    with pytest.raises(ValueError, match="There is no preset 'nf5'"):
        render_card(folder, variant="nf5")


@pytest.mark.parametrize("preset", PAPER_SIZES)
def test_every_design_has_a_card_at_the_size_of_its_paper(preset: str, tmp_path: Path) -> None:
    official = PAPER_SIZES[preset]
    folder = paper_folder(tmp_path, preset, official)
    card = make_card(folder, CardOptions(repo_id="me/model", revision=REVISION))
    data = ModelCard(card.text).data
    assert (data.base_model, data.base_model_relation) == ([official], "finetune")
    assert official in card.text
    assert "not measured" in card.text
    for stated in card.numbers:
        assert stated.shown in card.text.splitlines()[stated.line - 1]


def test_an_official_checkpoint_is_compared_with_its_own_row(tmp_path: Path) -> None:
    text = make_card(paper_folder(tmp_path, "pllava", "ermu2001/pllava-13b")).text
    assert 'its row is "PLLaVA 13B"' in text
    assert "| MVBench | accuracy | 50.1 | not measured | not measured |" in text


def test_a_card_without_a_known_licence_says_so_and_asks(tmp_path: Path) -> None:
    folder = paper_folder(tmp_path, "pllava", "ermu2001/pllava-7b")
    text = render_card(folder)
    assert "**The licence of this checkpoint is unknown.**" in text
    assert "`ermu2001/pllava-7b` states no licence" in text
    assert all(option in text for option in ("--base-model", "--licence"))
    validate_card(text, needs_licence=False)
    with pytest.raises(CardError, match="no licence: name one with --licence"):
        validate_card(text)
    with pytest.raises(LicenceError, match="states no licence"):
        render_card(folder, licence="llama2")
    loosened = render_card(folder, licence="llama2", licence_override=True)
    validate_card(loosened)
    assert "although a source has a stricter one" in loosened
    fitting = render_card(hf_videollm.default_checkpoint(), licence="apache-2.0", licence_override=True)
    assert "although a source has a stricter one" not in fitting


def test_a_non_commercial_base_is_said_on_the_card(tmp_path: Path) -> None:
    text = render_card(paper_folder(tmp_path, "videollama2", "DAMO-NLP-SG/VideoLLaMA2-7B-16F"))
    assert "does not allow commercial use, so this checkpoint does not either" in text
    data = ModelCard(text).data
    assert (data.license, data.license_name, data.license_link) == ("other", "licences-of-the-sources", "LICENSE")
    validate_card(text)


def test_an_unrecorded_folder_says_that_nothing_is_recorded(tmp_path: Path) -> None:
    find_preset("pllava").config().save_pretrained(tmp_path)
    assert "does not record what it was made from" in render_card(tmp_path)
    named = render_card(tmp_path, base_models=("llava-hf/llava-v1.6-vicuna-7b-hf",))
    assert ModelCard(named).data.license == "llama2"
    assert "openai/clip-vit-large-patch14-336" in named


def test_card_and_pictures_are_written_together(tmp_path: Path) -> None:
    folder = hf_videollm.default_checkpoint()
    written = write_card(folder, tmp_path / "card" / "README.md", CardOptions(repo_id="me/x"))
    assert sorted(path.name for path in written) == ["README.md", "architecture.png", "example.png"]
    assert all(path.is_file() for path in written)
    text = written[0].read_text()
    check_card(text, folder, CardOptions(repo_id="me/x"))
    with pytest.raises(CardNumberError, match="states 129 where the files say 128"):
        check_card(text.replace("costs 128 tokens", "costs 129 tokens"), folder, CardOptions(repo_id="me/x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ({}, "model"),
        ({"model_type": "llava"}, "for which model_cards/designs has no facts"),
        ("{", "no valid JSON"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_an_error(content: Any, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as caught:
        render_card(tmp_path)
    assert "\n" not in str(caught.value)


GOOD = "license: mit\npipeline_tag: video-text-to-text\nlibrary_name: transformers\nlanguage: en"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("", "no metadata"),
        ("language: en", "no licence"),
        ("license: unknown", "no licence"),
        ("license: apache2", "no licence of the Hub"),
        ("license: other", "needs license_name"),
        ("license: other\nlicense_name: My Terms", "small letters"),
        ("license: mit\npipeline_tag: text-generation", "does not fit a video model"),
        ("license: mit\nlibrary_name: hf_videollm", "gives no snippet"),
        ("license: mit\nbase_model: a/b\nbase_model_relation: copied", "must be one of finetune"),
        ("license: mit\nbase_model_relation: quantized", "beside a base_model"),
        ("license: mit\nbase_model: a/b/c", "no id of the Hub"),
        ("license: mit\ndatasets: [my data]", "no id of the Hub"),
        ("license: mit\nlanguage: english", "no code of a language"),
        ("license: mit\nmodel-index: 3", "cannot be read"),
        ("license: [", "cannot be read"),
    ],
)
def test_metadata_against_the_rules_of_the_hub_is_refused(metadata: str, message: str) -> None:
    block = f"---\n{metadata}\n---\n" if metadata else ""
    with pytest.raises(CardError, match=message) as caught:
        validate_card(f"{block}# A model\n")
    assert "\n" not in str(caught.value)
    validate_card(f"---\n{GOOD}\n---\n# A model\n")


def test_a_card_without_text_is_refused() -> None:
    with pytest.raises(CardError, match="no text"):
        validate_card(f"---\n{GOOD}\n---\n")


# Results of `hf-videollm evaluate`


def evaluated(folder: Path, name: str, tasks: str) -> list[str]:
    """The folders that `evaluate` writes for a bundled checkpoint on small stand-ins of benchmarks."""
    from hf_videollm.cli.commands import main
    from hf_videollm.synthetic.benchmarks import write_stand_in

    for task in tasks.split(","):
        write_stand_in(task, folder / "data" / task, 2)
    options = ["--data", str(folder / "data"), "--output", str(folder / "runs"), "--device", "cpu"]
    with pytest.raises(SystemExit):
        main(["evaluate", "--model", name, "--tasks", tasks, *options])
    return [str(folder / "runs" / task) for task in tasks.split(",")]


def test_results_of_evaluate_are_on_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of real runs, in the table and in the form of the Hub; those of another model are refused."""
    folders = evaluated(tmp_path, "videollama2-av-tiny", "nextqa,music_avqa")
    source = hf_videollm.default_checkpoint("videollama2-av-tiny")
    bare, card = make_card(source), make_card(source, CardOptions(results=tuple(folders)))
    validate_card(card.text)
    results = ModelCard(card.text).data.eval_results
    added = {result.dataset_name: result for result in results if result.metric_args}
    assert len(added) == len(folders) == len(results) - len(ModelCard(bare.text).data.eval_results)
    for folder in folders:
        written = json.loads((Path(folder) / "result.json").read_text())
        result = added[written["title"]]
        shown = round(100 * written["metrics"]["accuracy"], 1)
        assert (result.metric_type, round(result.metric_value, 1)) == ("accuracy", shown)
        assert result.metric_args["items"] == written["counts"]["items"]
        (row,) = [line for line in card.text.splitlines() if line.startswith(f"| {written['title']} |")]
        assert row.endswith(f"| {shown} ({written['counts']['items']} questions) |")
        assert f"| {written['title']} |" not in bare.text or "not measured |" in bare.text
    check_card(card.text, source, CardOptions(results=tuple(folders)))
    with pytest.raises(CardNumberError):
        check_card(card.text.replace(f"| {shown} (", "| 99.9 ("), source, CardOptions(results=tuple(folders)))
    with pytest.raises(ValueError, match="has results of another model: its design is videollama2_av, and that of"):
        make_card(hf_videollm.default_checkpoint(), CardOptions(results=tuple(folders)))
    with pytest.raises(ValueError, match="data"):
        make_card(source, CardOptions(results=(tmp_path / "data",)))


# The text of a licence


def test_the_licences_of_the_sources_are_listed_where_the_card_links_to_them(tmp_path: Path) -> None:
    folder = paper_folder(tmp_path, "videollama2", "DAMO-NLP-SG/VideoLLaMA2-7B-16F")
    written = {path.name: path for path in write_card(folder, folder / "README.md")}
    assert ModelCard(written["README.md"].read_text()).data.license_link == "LICENSE"
    text = written["LICENSE"].read_text()
    for source in licence_of(folder).sources:
        assert f"\n{source.name}\n" in text
        entry = text.split(f"\n{source.name}\n")[1].split("\n\n")[0]
        assert (source.licence is None) == ("licence: not known" in entry)
        assert source.licence_link is None or source.licence_link in text
    assert "commercial use is not allowed" in " ".join(text.split())
    # A folder keeps its own file.
    (folder / "LICENSE").write_text("mine")
    assert "LICENSE" not in {path.name for path in write_card(folder, folder / "README.md")}
    assert (folder / "LICENSE").read_text() == "mine"


def test_a_licence_of_ones_own_has_a_text(tmp_path: Path) -> None:
    folder = paper_folder(tmp_path, "pllava", "someone/model")
    named = {"licence": "other", "licence_name": "my-terms-2.0"}
    with pytest.raises(LicenceError, match="needs the name of the licence"):
        render_card(folder, licence="other")
    with pytest.raises(LicenceError, match=r"text of the licence my-terms-2\.0 is not known.*LICENSE.*--licence-link"):
        render_card(folder, **named)
    linked = render_card(folder, **named, licence_link="https://example.org/terms")
    assert ModelCard(linked).data.license_link == "https://example.org/terms"
    assert "are under [my-terms-2.0](https://example.org/terms)" in linked
    (folder / "LICENSE.md").write_text("my terms")
    assert ModelCard(render_card(folder, **named)).data.license_link == "LICENSE.md"
    for option in ({"licence_link": "https://example.org/terms"}, {"licence_name": "my-terms"}):
        with pytest.raises(LicenceError, match="is for --licence other alone"):
            render_card(folder, licence="mit", **option)
    qwen = paper_folder(tmp_path / "known", "ftfv", "Qwen/Qwen-VL")
    text = render_card(qwen, licence="other", licence_name="tongyi-qianwen")
    assert "QwenLM/Qwen-VL/blob/master/LICENSE" in ModelCard(text).data.license_link
