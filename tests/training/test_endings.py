"""What a training leaves opens directly, and every ending answers as the trained model in memory did."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import DESIGNS, LORA, answer, inner, make_recipe, tiny_videollama2, write_records
from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_videollm import LinVTForCausalLM, load_pipeline
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.hub.folder import check_folder
from hf_videollm.models.errors import CheckpointError
from hf_videollm.origin import load_card_metadata, read_origin
from hf_videollm.training.endings import (
    finish_adjustable,
    finish_checkpoint,
    finish_linvt,
    finish_merged,
    finish_qlora,
)
from hf_videollm.training.sft import run_sft
from hf_videollm.training_outputs import load_trained

__all__ = ["tiny_videollama2"]
TOLERANCE = 2e-4
Answer = tuple[list[int], torch.Tensor]


class Trained:
    """A finished run, and what the model answered at its end and at its beginning."""

    def __init__(self, source: str, records: str, output: Path, clip: str, **fields: Any) -> None:
        self.source, self.output, self.clip = source, output, clip
        trainer = run_sft(make_recipe(source, records, output, **fields), save=True)
        model = inner(trainer.model)
        self.processor = trainer.processing_class
        self.tokens, self.logits = answer(model, self.processor, clip)
        before = AutoModelForImageTextToText.from_pretrained(source)
        self.before = answer(before, AutoProcessor.from_pretrained(source), clip)[1]
        # The control of everything below: the training has changed what the model computes.
        assert (self.logits - self.before).abs().max() > 100 * TOLERANCE

    def assert_same(self, model: Any, processor: Any, tolerance: float = TOLERANCE) -> None:
        tokens, logits = answer(model, processor, self.clip)
        assert tokens == self.tokens
        assert (logits - self.logits).abs().max() <= tolerance


def opened(folder: Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, clips: list[str]) -> str:
    return write_records(tmp_path_factory.mktemp("records"), clips)


@pytest.fixture(scope="module")
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, records: str, clips: list[str]
) -> Any:
    """Runs of a design, each made once: `trained("iva", "lora")`."""
    runs: dict[tuple[str, str], Trained] = {}

    def get(design: str, kind: str) -> Trained:
        if (design, kind) not in runs:
            fixture, part = DESIGNS[design]
            source = request.getfixturevalue(fixture)
            fields: dict[str, Any] = {"trainable": [part]}
            if kind != "full":
                fields["lora"] = LORA
            if kind == "qlora":
                fields["quantize"] = "nf4"
            output = tmp_path_factory.mktemp("runs") / f"{design}-{kind}"
            runs[design, kind] = Trained(source, records, output, clips[0], **fields)
        return runs[design, kind]

    return get


def assert_tidy(folder: Path, run: Trained) -> None:
    """Nothing in a finished folder names the folder in which it was written, and only Hub ids stand as metadata."""
    # Names of `atomic_claim.py`; and the destination itself, which may be moved.
    here = re.escape(str(folder.parent)).encode()
    temporary = re.compile(rb"[0-9a-f]{12}\.(new|old|lock)|\." + folder.name.encode() + rb"\.partial|" + here)
    found = [(path.name, temporary.search(path.read_bytes())) for path in folder.rglob("*") if path.is_file()]
    assert [(name, match[0]) for name, match in found if match is not None] == []
    assert not [path for path in folder.rglob("*") if temporary.search(path.name.encode())]
    origin = read_origin(folder)
    assert origin is not None
    names = {source.role: source.name for source in origin.sources}
    assert names["base model"] == Path(run.source).name
    assert names["training data"].endswith("/records.jsonl")
    if (card := folder / "README.md").is_file():
        metadata = load_card_metadata(card)
        assert not {"base_model", "datasets", "base_model_relation"} & metadata.keys()
        text = card.read_text()
        assert f"# {folder.name}\n" in text
        assert f'"OWNER/{folder.name}"' in text
        assert names["training data"] in text
        assert names["base model"] in text
        facts = describe_checkpoint(str(folder), memory=False)
        assert names["training data"] not in [model.name for model in facts.base_models]
        assert facts.training_data == [names["training data"]]


@pytest.mark.parametrize("design", DESIGNS)
def test_an_adapter_opens_and_becomes_a_checkpoint(design: str, trained: Any, tmp_path: Path) -> None:
    run = trained(design, "lora")
    pipe = load_pipeline(run.output)
    run.assert_same(pipe.model, pipe.processor, 0.0)
    report = finish_checkpoint(run.output, tmp_path / "whole")
    assert report.ending == "LoRA merged"
    run.assert_same(*opened(tmp_path / "whole"))
    assert check_folder(tmp_path / "whole").design.name == design
    training = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert (training["steps"], training["base_model"]) == (4, Path(run.source).name)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "LoRA of rank 4 on q_proj, v_proj" in card
    assert "None" not in card
    assert str(Path(run.source).parent) not in card + json.dumps(training)
    assert_tidy(tmp_path / "whole", run)


@pytest.mark.parametrize("design", ["pllava", "linvt"])
def test_whole_weights_open_and_become_a_checkpoint(design: str, trained: Any, tmp_path: Path) -> None:
    run = trained(design, "full")
    run.assert_same(*opened(run.output), 0.0)
    assert finish_checkpoint(run.output, tmp_path / "whole").ending == "as trained"
    run.assert_same(*opened(tmp_path / "whole"), 0.0)
    assert_tidy(tmp_path / "whole", run)
    # Nothing of the training is left in it: no state of an optimizer, no arguments in a pickle.
    assert not [path.name for path in (tmp_path / "whole").rglob("*") if path.suffix in (".bin", ".pt", ".pth")]
    with pytest.raises(CheckpointError, match="no LoRA: use `hf-videollm finish checkpoint"):
        finish_merged(run.output, tmp_path / "merged")


def test_a_kept_lora_is_adjustable(trained: Any, tmp_path: Path) -> None:
    run = trained("pllava", "lora")
    finish_adjustable(run.output, tmp_path / "kept")
    model, processor = opened(tmp_path / "kept")
    run.assert_same(model, processor)
    assert_tidy(tmp_path / "kept", run)
    model.set_lora_alpha(0)
    assert (answer(model, processor, run.clip)[1] - run.logits).abs().max() > 100 * TOLERANCE
    half = AutoModelForImageTextToText.from_pretrained(tmp_path / "kept", lora_alpha=4)
    expected = answer(half, processor, run.clip)[1]
    # The same strength, merged; stored as the default; and of the run itself.
    finish_merged(run.output, tmp_path / "merged", lora_alpha=4)
    torch.testing.assert_close(answer(*opened(tmp_path / "merged"), run.clip)[1], expected, atol=TOLERANCE, rtol=0)
    finish_adjustable(run.output, tmp_path / "half", lora_alpha=4)
    torch.testing.assert_close(answer(*opened(tmp_path / "half"), run.clip)[1], expected, atol=TOLERANCE, rtol=0)
    pipe = load_pipeline(run.output, lora_alpha=4)
    torch.testing.assert_close(answer(pipe.model, processor, run.clip)[1], expected, atol=TOLERANCE, rtol=0)
    assert (expected - run.logits).abs().max() > 10 * TOLERANCE
    with pytest.raises(CheckpointError, match="keeps no LoRA apart"):
        finish_adjustable(trained("iva", "lora").output, tmp_path / "iva")
    with pytest.raises(CheckpointError, match="PLLaVA alone"):
        finish_merged(trained("iva", "lora").output, tmp_path / "iva", lora_alpha=4)
    assert not (tmp_path / "iva").exists()


def test_linvt_alone_holds_all_that_was_trained(trained: Any, tiny_image_llm: str, tmp_path: Path) -> None:
    run = trained("linvt", "full")
    finish_linvt(run.output, tmp_path / "alone")
    model = LinVTForCausalLM.from_adapter(tmp_path / "alone")
    run.assert_same(model, AutoProcessor.from_pretrained(tmp_path / "alone"), 0.0)
    assert_tidy(tmp_path / "alone", run)
    # Names of image-LLMs are those that every command takes, and errors name the destination.
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'named'} belongs to another image-LLM than")):
        finish_linvt(run.output, tmp_path / "named", image_llm="iva-tiny")
    with pytest.raises(FileNotFoundError, match="did you mean iva-tiny"):
        finish_linvt(run.output, tmp_path / "named", image_llm="iva-tinny")
    assert not (tmp_path / "named").exists()
    with pytest.raises(CheckpointError, match="LoRA on the language model, which LinVT alone would lose"):
        finish_linvt(trained("linvt", "lora").output, tmp_path / "lora")
    with pytest.raises(CheckpointError, match="has no LinVT"):
        finish_linvt(trained("pllava", "full").output, tmp_path / "pllava")


def test_linvt_alone_is_refused_where_it_would_lose_something(
    trained: Any, records: str, clips: list[str], tmp_path: Path
) -> None:
    source = trained("linvt", "full").source
    run = Trained(source, records, tmp_path / "run", clips[0], trainable=["linvt", "lm_head"])
    with pytest.raises(CheckpointError, match=r"would lose what was trained in the image-LLM, such as lm_head.weight"):
        finish_linvt(run.output, tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize(
    "design", [pytest.param(name, marks=[] if name in ("pllava", "linvt") else [pytest.mark.slow]) for name in DESIGNS]
)
def test_qlora_opens_and_has_two_endings(design: str, trained: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the language model is quantized by bitsandbytes")
    run = trained(design, "qlora")
    pipe = load_pipeline(run.output)
    run.assert_same(pipe.model, pipe.processor, 0.0)
    kinds = {type(layer).__name__ for layer in pipe.model.modules() if "Linear4bit" in type(layer).__name__}
    assert kinds, "it is still in 4 bits"
    finish_qlora(run.output, tmp_path / "dequantized")
    model, processor = opened(tmp_path / "dequantized")
    assert not [name for name, value in model.named_parameters() if type(value) is not torch.nn.Parameter]
    # 4-bit layers compute in bfloat16.
    logits = answer(model, processor, run.clip)[1]
    moved = (run.logits - run.before).norm()
    near = (logits - run.logits).norm()
    assert near < 0.05 * moved
    assert_tidy(tmp_path / "dequantized", run)
    finish_qlora(run.output, tmp_path / "original", into="original")
    original = answer(*opened(tmp_path / "original"), run.clip)[1]
    # The control: it is another model, whose weights the LoRA has not seen.
    assert (original - run.logits).norm() > 2 * near
    with pytest.raises(CheckpointError, match="finish qlora"):
        finish_merged(run.output, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="not trained on 4-bit weights"):
        finish_qlora(trained(design, "lora").output, tmp_path / "merged")


def test_what_cannot_be_finished_is_refused_before_anything_is_written(trained: Any, tmp_path: Path) -> None:
    run = trained("pllava", "lora")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        finish_checkpoint(run.output, tmp_path / "there")
    with pytest.raises(FileExistsError, match="the training output itself"):
        finish_checkpoint(run.output, run.output, overwrite=True)
    with pytest.raises(CheckpointError, match="holds no model that a training has finished saving"):
        finish_checkpoint(tmp_path / "there", tmp_path / "new")
    with pytest.raises(CheckpointError, match="which is not found"):
        finish_checkpoint(run.output, tmp_path / "new", base="./nowhere")
    with pytest.raises(CheckpointError, match="need no base model"):
        finish_checkpoint(trained("pllava", "full").output, tmp_path / "new", base="./nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_base_model_that_has_changed_is_noticed(trained: Any, tmp_path: Path) -> None:
    """Otherwise the adapter would be put on other weights, and answer wrongly without a word."""
    run = trained("pllava", "lora")
    moved = tmp_path / "moved"
    shutil.copytree(run.source, moved)
    load_trained(run.output, base=str(moved))
    other = AutoModelForImageTextToText.from_pretrained(moved)
    with torch.no_grad():
        other.model.language_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.save_pretrained(moved)
    with pytest.raises(CheckpointError, match="holds other weights than those"):
        load_trained(run.output, base=str(moved))
    shutil.copytree(run.output, tmp_path / "alone")
    record = tmp_path / "alone" / "base_model.json"
    # Other trainers leave no record; the name that PEFT has noted does as well.
    content = record.read_text()
    record.unlink()
    run.assert_same(*load_trained(tmp_path / "alone"), 0.0)
    record.write_text(content)
    record.write_text(record.read_text().replace(str(run.source), str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match="which is not found"):
        load_trained(tmp_path / "alone")
