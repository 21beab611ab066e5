"""What `hf-videollm info` tells about a checkpoint: each fact is that of the files, and changes when they change."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer, against, hub_server
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.costs.memory import (
    DTYPES,
    LONGEST_SOUND,
    ROOM_FOR_ANSWER,
    filter_bank_frames,
    prompt_tokens,
    sound_seconds,
)
from hf_videollm.costs.origin import licence_of_text
from hf_videollm.costs.stored import part_of
from hf_videollm.hub.card import render_card
from hf_videollm.hub.checkpoint import bundled_checkpoints, default_checkpoint
from hf_videollm.hub.licences import licence_of
from hf_videollm.inference import load_design_config
from hf_videollm.models.errors import CheckpointError
from hf_videollm.origin import OriginError, write_origin

README = """---
license: apache-2.0
base_model: someone/start
base_model_relation: finetune
---
# A model
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled PLLaVA, which a test may change."""
    return Path(shutil.copytree(default_checkpoint(), tmp_path / "checkpoint"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as server, against(server, tmp_path / "cache"):
        yield server


def push(name: str, folder: Path) -> str:
    api = HfApi()
    api.create_repo(name)
    return str(api.upload_folder(repo_id=name, folder_path=folder).oid)


# Parameters and sizes


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_the_headers_hold_the_parameters_of_the_model(name: str) -> None:
    source = default_checkpoint(name)
    facts = describe_checkpoint(source)
    model = AutoModelForImageTextToText.from_pretrained(source)
    assert facts.stored is not None
    assert not any("weight files" in note for note in facts.notes)
    for part in ("vision_tower", "connector", "language_model", "audio_tower", "linvt"):
        module = getattr(model.model, part, None)
        own = 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
        stored = facts.stored.parts.get(part)
        assert (0 if stored is None else stored.values) == own, part
    assert facts.stored.bytes == sum(part.bytes for part in facts.stored.parts.values())
    assert facts.stored.bytes == sum(facts.stored.bytes_by_dtype.values())
    weights = Path(source, "model.safetensors").stat().st_size
    assert 0 < weights - facts.stored.bytes < 200_000  # the header


def test_sizes_follow_the_types_on_disk(folder: Path) -> None:
    before = describe_checkpoint(folder).stored
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    changed = {name: value.bfloat16() if "language_model" in name else value for name, value in tensors.items()}
    save_file(changed, weights, metadata={"format": "pt"})
    after = describe_checkpoint(folder).stored
    assert before is not None
    assert after is not None
    assert set(before.bytes_by_dtype) == {"F32"}
    language = before.parts["language_model"]
    assert after.bytes_by_dtype["BF16"] == language.bytes // 2 == after.parts["language_model"].bytes
    assert after.parts["language_model"].values == language.values
    assert after.parts["vision_tower"] == before.parts["vision_tower"]


def test_no_weights_are_read(folder: Path) -> None:
    """A control: a file that ends too early is found by its header."""
    weights = folder / "model.safetensors"
    # Whose weights these are is asked only if nothing else tells where the checkpoint comes from.
    (folder / "README.md").write_text(README)
    expected = describe_checkpoint(folder)
    content = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = bytes(len(content) - start)
    weights.write_bytes(content)
    # The memory of the process is measured, so it is another number each time.
    assert replace(describe_checkpoint(folder), libraries_bytes=None) == replace(expected, libraries_bytes=None)
    weights.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        describe_checkpoint(folder)


def test_weights_of_another_model_are_noted(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.connector.linear_1.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    (note,) = describe_checkpoint(folder).notes
    assert "may not fit" in note


def test_without_weights_the_rest_is_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    facts = describe_checkpoint(folder)
    assert facts.stored is None
    assert facts.memory is not None
    assert "no model.safetensors" in facts.notes[0]
    torch.save({}, folder / "pytorch_model.bin")
    assert "pickle" in describe_checkpoint(folder).notes[0]


def test_the_case_of_the_memory_is_chosen(folder: Path, cli: Any) -> None:
    usual = describe_checkpoint(folder)
    other = describe_checkpoint(folder, text_tokens=32, num_frames=32, dtype="float32")
    assert usual.memory is not None
    assert other.memory is not None
    assert (other.memory.num_frames, other.memory.text_tokens, other.memory.dtype) == (32, 32, "float32")
    assert other.memory.inputs == 4 * 32 * usual.memory.inputs // (
        usual.memory.num_frames * DTYPES[usual.memory.dtype].itemsize
    )
    code, out, _ = cli("info", str(folder), "--frames", "32", "--text-tokens", "32", "--dtype", "float32", "--json")
    assert code == 0
    assert json.loads(out)["memory"] == asdict(other.memory)
    code, _, err = cli("info", str(folder), "--dtype", "float33")
    assert code != 0
    assert "did you mean float32" in err
    code, _, err = cli("info", "--design", "linvt", "--frames", "3")
    assert code != 0
    assert "leave out --design" in err
    with pytest.raises(ValueError, match="num_frames must be at least 1"):
        describe_checkpoint(folder, num_frames=0)


def test_parts_of_names() -> None:
    assert part_of("lm_head.weight") == "lm_head"
    assert part_of("model.linvt.scorer.weight") == "linvt"
    assert part_of("lora.base_model.model.q_proj.lora_A.weight") == "lora"


# Where it comes from


def test_readme_states_base_model_and_licence(folder: Path) -> None:
    (folder / "model.safetensors").unlink()  # it is that of a small checkpoint, whose licence is known
    nothing = describe_checkpoint(folder)
    assert (nothing.base_models, nothing.licence, nothing.revision) == ([], None, None)
    (folder / "README.md").write_text(README)
    facts = describe_checkpoint(folder)
    (base,) = facts.base_models
    assert (base.name, base.role, base.stated_in) == ("someone/start", "finetune", "README.md")
    assert facts.licence is not None
    assert (facts.licence.id, facts.licence.stated_in) == ("apache-2.0", "README.md")


def test_licence_file_counts_where_the_readme_is_silent(folder: Path) -> None:
    (folder / "LICENSE").write_text("\n  Apache License\n  Version 2.0, January 2004\n")
    licence = describe_checkpoint(folder).licence
    assert licence is not None
    assert (licence.id, licence.stated_in) == ("apache-2.0", "LICENSE")
    (folder / "README.md").write_text(README.replace("apache-2.0", "mit"))
    stated = describe_checkpoint(folder).licence
    assert stated is not None
    assert stated.id == "mit"
    assert licence_of_text("Do what you like.") == "other"


def test_a_damaged_readme_is_one_line(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md") as caught:
        describe_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_the_record_of_a_conversion_is_told_as_on_the_card(folder: Path, hub: HubServer) -> None:
    """From a folder and from the Hub; a README that names the same model again adds no second row."""
    places = []
    for name in ("org/chat-model", "org/tower"):
        places.append(folder.parent / f"models--{name.replace('/', '--')}" / "snapshots" / ("ab" * 20))
        places[-1].mkdir(parents=True)
    write_origin(folder, "hf-videollm convert", [("checkpoint", places[0]), ("vision tower", places[1])])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")  # no longer the model of this package
    told = describe_checkpoint(folder).base_models
    assert [(model.name, model.role, model.revision, model.stated_in) for model in told] == [
        ("org/chat-model", "checkpoint", "ab" * 20, "origin.json"),
        ("org/tower", "vision tower", "ab" * 20, "origin.json"),
    ]
    assert ModelCard(render_card(folder)).data.base_model == [model.name for model in told]
    (folder / "README.md").write_text(README.replace("someone/start", "org/tower"))
    assert describe_checkpoint(folder).base_models == told
    push("me/model", folder)
    assert describe_checkpoint("me/model").base_models == told
    (folder / "origin.json").write_text("{")
    with pytest.raises(OriginError, match=r"origin\.json is damaged"):
        describe_checkpoint(folder)


def test_the_small_checkpoints_are_under_the_licence_of_the_package(folder: Path) -> None:
    for name in bundled_checkpoints():
        licence = describe_checkpoint(default_checkpoint(name)).licence
        assert licence is not None
        assert licence.id == licence_of(default_checkpoint(name)).suggested
    copy = describe_checkpoint(folder)
    assert copy.licence is not None
    assert [(base.name, base.role) for base in copy.base_models] == [("pllava-tiny", "the same weights")]
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    changed = describe_checkpoint(folder)
    assert (changed.licence, changed.base_models) == (None, [])


def test_sound_is_as_long_as_the_context_allows() -> None:
    """No estimate is of a prompt that the model would refuse; with room for it, the sound lasts 30 seconds."""
    config = load_design_config(default_checkpoint("videollama2-av-tiny"))
    text = config.get_text_config()

    def fits(seconds: int) -> bool:
        return prompt_tokens(config, seconds=seconds) + ROOM_FOR_ANSWER <= text.max_position_embeddings

    short = sound_seconds(config)
    assert 0 < short < LONGEST_SOUND
    assert fits(short)
    assert not fits(short + 1)
    facts = describe_checkpoint(default_checkpoint("videollama2-av-tiny"))
    assert facts.memory is not None
    assert (facts.sound_seconds, facts.memory.sound_frames) == (short, filter_bank_frames(short))
    assert any(f"{short} and not for 30 seconds" in note for note in facts.notes)
    # What no prompt can hold is said.
    assert sound_seconds(config, text_tokens=2000) == 0
    long = describe_checkpoint(default_checkpoint("videollama2-av-tiny"), text_tokens=2000)
    assert any("reads at most 1,024" in note for note in long.notes)
    text.max_position_embeddings = 4096
    assert sound_seconds(config) == LONGEST_SOUND
    assert sound_seconds(load_design_config(default_checkpoint())) == 0


def test_a_linvt_names_its_image_llm(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(default_checkpoint("linvt-tiny"), tmp_path / "linvt"))
    file = folder / "config.json"
    config = json.loads(file.read_text())
    # Paths of the machine where it was made are not shown.
    assert [base.name for base in describe_checkpoint(folder).base_models] == ["linvt-tiny"]
    file.write_text(json.dumps({**config, "backbone_name": "someone/llava", "backbone_revision": "abc"}))
    (base,) = describe_checkpoint(folder).base_models
    assert (base.name, base.role, base.revision) == ("someone/llava", "backbone_name", "abc")


def test_revision_of_a_download(folder: Path) -> None:
    record = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    record.parent.mkdir(parents=True)
    record.write_text("f00d\netag\n1.0\n")
    assert describe_checkpoint(folder).revision == "f00d"


# Models on the Hub


def test_of_a_model_on_the_hub_no_weights_are_downloaded(hub: HubServer, folder: Path, cli: Any) -> None:
    local = describe_checkpoint(folder)
    (folder / "README.md").write_text(README)
    oid = push("me/model", folder)
    quantized = folder.parent / "quantized"
    quantized.mkdir()
    (quantized / "README.md").write_text("---\nbase_model: me/model\nbase_model_relation: quantized\n---\n")
    push("me/model-nf4", quantized)
    # One that only its owner sees, with the list that `push` writes; and, as a control, other kinds of relatives.
    for name, relation, base in (
        ("hidden", "quantized", "me/model"),
        ("tuned", "finetune", "me/model"),
        ("other", "quantized", "me/another"),
    ):
        (quantized / "README.md").write_text(f"---\nbase_model: [{base}]\nbase_model_relation: {relation}\n---\n")
        HfApi().create_repo(f"me/{name}", private=name == "hidden")
        HfApi().upload_folder(repo_id=f"me/{name}", folder_path=quantized)
    hub.forget()
    facts = describe_checkpoint("me/model")
    assert facts.stored == local.stored
    assert facts.memory == local.memory
    assert facts.revision == oid
    assert [model.name for model in facts.base_models] == ["someone/start"]
    assert (facts.variants.names, facts.variants.looked_in) == (["me/hidden", "me/model-nf4"], "Hub")
    cache = folder.parent / "cache"
    assert not list(cache.rglob("model.safetensors"))
    assert sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) < 100_000
    code, table, _ = cli("info", "me/model")
    assert code == 0
    assert "me/model-nf4" in table
    assert "someone/start" in table
    assert "apache-2.0" in table


def test_offline_the_cache_alone_is_asked(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    push("me/model", folder)
    describe_checkpoint("me/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    facts = describe_checkpoint("me/model")
    assert facts.variants.looked_in == "cache"
    assert facts.stored is None
    assert "not in the cache" in facts.notes[0]
    code, _, error = cli("info", "me/other")
    assert code == 2
    # The lines before it are progress bars of the push above.
    assert error.splitlines()[-1].startswith(
        "error: me/other: no such folder, not downloaded before, and HF_HUB_OFFLINE"
    )


# As table and JSON


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_table_and_json_tell_the_same(name: str, cli: Any) -> None:
    code, out, _ = cli("info", name, "--json")
    assert code == 0
    facts = json.loads(out)
    # The memory of the process is measured, so it is another number each time.
    again = describe_checkpoint(default_checkpoint(name)).to_dict()
    assert facts | {"libraries_bytes": 0} == again | {"libraries_bytes": 0}
    code, table, _ = cli("info", name)
    assert code == 0
    for row in (
        "licence",
        "base model",
        "revision",
        "on disk",
        "memory, predicted",
        "on a CPU, predicted",
        "how it is predicted",
    ):
        assert row in table
    for part in facts["stored"]["parts"]:
        assert f"on disk, {part}" in table
    assert not any(line.endswith(" ") for line in table.splitlines())


def test_the_schema_is_documented() -> None:
    """Each field of the JSON object has its row in the docs, and the docs name no other."""
    page = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "info.md"
    rows = [line.split("|")[1].strip().strip("`") for line in page.read_text().splitlines() if line.startswith("| `")]

    def names(value: Any, prefix: str = "") -> Iterator[str]:
        for name, inner in value.items():
            yield prefix + name
            if isinstance(inner, dict) and name in ("stored", "variants", "memory", "licence"):
                yield from names(inner, f"{prefix}{name}.")

    facts = describe_checkpoint(default_checkpoint()).to_dict()
    facts["licence"] = {"id": "", "name": "", "link": "", "stated_in": ""}
    assert sorted(rows) == sorted(names(facts))


# What is no checkpoint


def test_folders_that_are_no_checkpoint_are_one_line(tmp_path: Path, cli: Any, folder: Path) -> None:
    from transformers import LlamaConfig

    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    adapter = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "start"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    LlamaConfig().save_pretrained(tmp_path / "llama")
    (folder / "config.json").write_text("{")
    for name, words in {
        "empty": "no config.json",
        "adapter": "LoRA adapter of rank 4",
        "llama": "type 'llama'",
        "checkpoint": "no readable JSON",
        "chekpoint": "did you mean checkpoint",
    }.items():
        code, _, error = cli("info", str(tmp_path / name))
        assert code == 2, name
        assert words in error, error
        assert error.count("\n") == 1
