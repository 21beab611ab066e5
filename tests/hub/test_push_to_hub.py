"""`push_to_hub` as everyone calls it gives a complete repository, or says why not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import WITHOUT_PACKAGE, run_fresh
from hub_server import HubServer, against, hub_server
from huggingface_hub import ModelCard, snapshot_download

from hf_videollm import (
    IvaForConditionalGeneration,
    IvaModel,
    IvaProcessor,
    LinVTForCausalLM,
    PllavaForConditionalGeneration,
    default_checkpoint,
)
from hf_videollm.hub.push import push
from hf_videollm.models.pipeline_video_text_to_text import VideoTextToTextPipeline

SOURCE = default_checkpoint("iva-tiny")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as server, against(server, tmp_path / "cache"):
        yield server


def load() -> tuple[Any, Any]:
    return IvaForConditionalGeneration.from_pretrained(SOURCE), IvaProcessor.from_pretrained(SOURCE)


def test_model_and_processor_give_the_repository_of_push(hub: HubServer) -> None:
    model, processor = load()
    address = model.push_to_hub("mine", private=True, commit_message="first", tags=["toy"], licence="apache-2.0")
    assert address.startswith(f"{hub.url}/me/mine/tree/")
    assert processor.push_to_hub("mine", private=True, commit_message="processor") == address
    assert hub.commits("me/mine") == ["first"]
    assert hub.store.repos["me/mine"].private
    push(SOURCE, "me/theirs")
    mine, theirs = set(hub.files("me/mine")), set(hub.files("me/theirs"))
    # The folder of the bundled checkpoint tells how it was trained; a model in memory does not know that.
    told = {"TRAINING.md", "accuracy.json", "training_log.jsonl", "architecture.png", "example.png"}
    assert mine - told == theirs - told
    card = ModelCard(hub.files("me/mine")["README.md"].decode())
    assert "toy" in card.data.tags
    folder = snapshot_download("me/mine")
    again = IvaForConditionalGeneration.from_pretrained(folder)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_saving_with_push_to_hub_is_saving_and_pushing(hub: HubServer, tmp_path: Path) -> None:
    """transformers would upload what one object saves: a repository without processor, card or licence."""
    model, processor = load()
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, private=True, licence="apache-2.0")
    processor.save_pretrained(str(tmp_path / "saved"), push_to_hub=True)
    VideoTextToTextPipeline(model, processor=processor).push_to_hub("me/whole", licence="apache-2.0")
    whole = hub.files("me/whole")
    assert {"README.md", "config.json", "processor_config.json", "model.safetensors", "modeling_iva.py"} <= set(whole)
    assert hub.store.repos["me/saved"].private
    assert len(hub.commits("me/saved")) == 1
    assert set(hub.files("me/saved")) == set(whole)
    assert {"config.json", "model.safetensors", "processor_config.json"} <= {
        path.name for path in (tmp_path / "saved").iterdir()
    }
    processor.chat_template = f"{processor.chat_template} "
    with pytest.raises(ValueError, match="another processor than this one"):
        processor.save_pretrained(tmp_path / "saved", push_to_hub=True)
    linvt = LinVTForCausalLM.from_pretrained(default_checkpoint("linvt-tiny"))
    with pytest.raises(ValueError, match="An adapter alone is no complete repository"):
        linvt.save_pretrained(tmp_path / "adapter", push_to_hub=True, adapter_only=True)
    assert hub.store.repos.keys() == {"me/saved", "me/whole"}


def test_a_model_from_the_hub_keeps_the_terms_of_its_repository(hub: HubServer) -> None:
    """Back in its own repository it is no source of itself."""
    model, processor = load()
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    model.push_to_hub("me/first", processor=processor, licence="cc-by-nc-4.0")
    again = IvaForConditionalGeneration.from_pretrained("me/first")
    with pytest.raises(ValueError, match=r"mit is looser than cc-by-nc-4\.0, the licence of me/first"):
        again.push_to_hub("me/second", licence="mit")
    again.push_to_hub("me/second")
    card = ModelCard(hub.files("me/second")["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", ["me/first"])
    again.push_to_hub("me/first", licence="cc-by-nc-4.0")
    assert ModelCard(hub.files("me/first")["README.md"].decode()).data.base_model is None


def test_a_processor_is_not_pushed_alone(hub: HubServer) -> None:
    model, processor = load()
    with pytest.raises(ValueError, match=r"me/mine does not exist yet.*push_to_hub\('mine', processor=processor"):
        processor.push_to_hub("mine")
    hub.store.create("me/empty", False)
    with pytest.raises(ValueError, match=r"me/empty has no model.*model\.push_to_hub"):
        processor.push_to_hub("me/empty")
    model.push_to_hub("me/mine", licence="apache-2.0")
    processor.chat_template = f"{processor.chat_template} "
    with pytest.raises(ValueError, match=r"another processor than this one \(chat_template.jinja differ\)"):
        processor.push_to_hub("me/mine")
    model.push_to_hub("me/mine", processor=processor, licence="apache-2.0")
    processor.push_to_hub("me/mine")
    assert len(hub.commits("me/mine")) == 2


def test_what_would_be_incomplete_is_refused(hub: HubServer) -> None:
    model, processor = load()
    with pytest.raises(ValueError, match=r"IvaModel cannot be pushed.*push a IvaForConditionalGeneration"):
        IvaModel.from_pretrained(SOURCE).push_to_hub("me/mine")
    with pytest.raises(ValueError, match="cannot open a pull request"):
        model.push_to_hub("me/mine", create_pr=True)
    with pytest.raises(ValueError, match="token=False is no login"):
        model.push_to_hub("me/mine", token=False)
    with pytest.raises(TypeError, match="did you mean private"):
        model.push_to_hub("me/mine", privat=True)
    model.name_or_path = ""
    with pytest.raises(ValueError, match=r"not loaded from a checkpoint.*processor=processor"):
        model.push_to_hub("me/mine")
    with pytest.raises(ValueError, match=r"tokens of|frames|processor"):
        PllavaForConditionalGeneration.from_pretrained(default_checkpoint()).push_to_hub("me/mine", processor=processor)
    assert hub.store.repos == {}


def test_remote_code_says_what_it_needs(tiny_iva_checkpoint: str, tmp_path: Path) -> None:
    """Without the package there is nothing that could make a card or check the files."""
    code = """
from transformers import AutoModelForImageTextToText, AutoProcessor
report = {}
for auto in (AutoModelForImageTextToText, AutoProcessor):
    try:
        auto.from_pretrained(sys.argv[1], trust_remote_code=True).push_to_hub("me/mine")
    except ValueError as error:
        report[auto.__name__] = str(error)
import json
"""
    report = run_fresh(WITHOUT_PACKAGE + code, tiny_iva_checkpoint, cache=tmp_path)
    for message in report.values():
        assert "pip install hf-videollm" in message
        assert "upload_folder" in message
    assert len(report) == 2
