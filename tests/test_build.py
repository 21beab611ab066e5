"""Designs put together from a tower and a language model of any family: nothing of either is lost."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from build_checks import QUESTION, SMALL, ask, check_saving, check_text, check_training, load
from build_llms import FAMILIES, TOWER, TOWERS, write_beats, write_llm, write_tower
from safetensors.torch import load_file
from tiny_linvt import write_llava
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DeiTConfig,
    DeiTModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from hf_videollm import CheckpointError, build_checkpoint
from hf_videollm.build.joining import check_text as refuse_other_logits
from hf_videollm.build.options import find_design
from hf_videollm.convert import parts
from hf_videollm.convert.ftfv.sources import read_language
from hf_videollm.convert.iva.convert import convert_iva
from hf_videollm.designs import buildable
from hf_videollm.models.video_llm_chat_template import has_tags

# LLaVA, which LinVT is put before, has a plain head, and wants its embedding by a name that GPT-2 has not.
NOT_FOR_LINVT = ("gemma2", "granite", "cohere", "gpt2")
# Each family in two designs, each design in several families; LinVT where it can be.
ORDER = buildable()
PAIRS = [
    (design, family)
    for number, family in enumerate(FAMILIES)
    for design in (ORDER[number % len(ORDER)], ORDER[(number + 2) % len(ORDER)])
    if not (design == "linvt" and family in NOT_FOR_LINVT)
]
Sources = Callable[..., Path]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Folders of towers, language models and BEATs, each written once."""
    root = tmp_path_factory.mktemp("sources")

    def find(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            write = write_beats if name == "beats" else write_tower if name in TOWERS else write_llm
            write(folder) if name == "beats" else write(folder, name)
        return folder

    return find


def build(design: str, family: str, sources: Sources, folder: Path, tower: str = "clip", **options: Any) -> Any:
    given = {"vision": sources(tower), "language_model": sources(family)}
    if design == "videollama2_av":
        given["audio"] = sources("beats")
    return build_checkpoint(design, folder, **given, **{**SMALL[design], **options})


@pytest.mark.parametrize(("design", "family"), PAIRS)
def test_text_is_answered_as_by_the_language_model(
    design: str, family: str, sources: Sources, clips: list[str], tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in sources(family).iterdir()}
    report = build(design, family, sources, tmp_path / "out")
    assert before == {file: file.read_bytes() for file in sources(family).iterdir()}
    model, processor = load(tmp_path / "out")
    language = AutoModelForCausalLM.from_pretrained(sources(family))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is (
        language.lm_head.weight is language.get_input_embeddings().weight
    )
    if FAMILIES[family].template is not None:
        check_text(model, processor, sources(family))
        # The control: with a video, the answer is another matter.
        assert (
            ask(processor, {"type": "video", "path": clips[0]})["input_ids"].shape != ask(processor)["input_ids"].shape
        )
    else:
        assert any("no chat template" in note for note in report.notes)
    assert has_tags(processor.chat_template)
    assert model.generation_config.do_sample is False
    assert report.design == design
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("design", buildable())
def test_weights_are_those_of_the_sources_and_training_can_begin(
    design: str, sources: Sources, clips: list[str], tmp_path: Path
) -> None:
    build(design, "qwen2", sources, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    taken = 0
    for name in ("clip", "qwen2", *(["beats"] if design == "videollama2_av" else [])):
        for key, tensor in load_file(sources(name) / "model.safetensors").items():
            short = key.removeprefix("model.").removeprefix("vision_model.")
            prefix = {"clip": "vision_tower.", "qwen2": "language_model.", "beats": "audio_tower."}[name]
            (own,) = [found for found in stored if found.endswith(prefix + short)]
            assert torch.equal(stored[own], tensor), own
            taken += 1
    new = [
        name
        for name in stored
        if any(f".{part}." in name for part in (*find_design(design).new_parts, "multi_modal_projector"))
    ]
    assert len(stored) == taken + len(new)
    model, processor = load(tmp_path / "out")
    check_training(model, processor, clips[0])
    check_saving(model, processor, clips[0], tmp_path / "saved")


@pytest.mark.parametrize("tower", [name for name in TOWERS if name != "clip"])
@pytest.mark.parametrize("design", ["pllava", "videollama2", "iva", "ftfv", "linvt"])
def test_any_tower_with_patches(design: str, tower: str, sources: Sources, clips: list[str], tmp_path: Path) -> None:
    build(design, "llama_tied", sources, tmp_path / "out", tower)
    model, processor = load(tmp_path / "out")
    for part in (processor.image_processor, processor.video_processor):
        if design != "linvt" or part is processor.image_processor:
            assert list(part.image_mean) == ([0.5] * 3 if tower == "siglip" else [0.4, 0.5, 0.6])
    inputs = ask(processor, {"type": "video", "path": clips[0]})
    assert inputs["pixel_values_videos"].shape[-2:] == (16, 16)
    model.generate(**inputs, max_new_tokens=2)


def test_seed_type_and_options(sources: Sources, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    progress: list[tuple[int, int]] = []
    variants: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {"seed": 1}, "d": {"dtype": "bfloat16"}}
    for name, options in variants.items():
        report = build(
            "pllava", "qwen2", sources, tmp_path / name, progress=lambda *now: progress.append(now), **options
        )
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c, d = (load_file(tmp_path / name / "model.safetensors") for name in "abcd")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {name for name in a if not torch.equal(a[name], c[name])} == {
        f"model.connector.linear_{number}.weight" for number in (1, 2)
    }
    assert all(torch.equal(a[name].to(torch.bfloat16), d[name]) for name in a)
    assert progress[-1] == (report.weight_bytes, report.weight_bytes)
    assert (report.dtype, load(tmp_path / "d")[0].dtype) == ("bfloat16", torch.bfloat16)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["num_frames"], config["pooling_shape"]) == (4, [2, 2, 2])


def test_weights_stay_as_they_were_stored(tmp_path: Path, sources: Sources) -> None:
    llm = write_llm(tmp_path / "llm", "qwen2", torch.bfloat16)
    report = build_checkpoint("pllava", tmp_path / "out", vision=sources("clip"), language_model=llm, **SMALL["pllava"])
    types = {name: tensor.dtype for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()}
    assert {kind for name, kind in types.items() if "vision_tower" in name} == {torch.float32}
    assert {kind for name, kind in types.items() if "vision_tower" not in name} == {torch.bfloat16}
    assert any("--dtype gives all of them one type" in note for note in report.notes)


def test_a_video_that_the_language_model_cannot_read_is_told(tmp_path: Path, sources: Sources) -> None:
    """The control is the same build with a long context."""
    for name, context, told in (("short", 8, True), ("long", 4096, False)):
        llm = tmp_path / name
        shutil.copytree(sources("qwen2"), llm)
        config = json.loads((llm / "config.json").read_text())
        (llm / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
        parts = {"vision": sources("clip"), "language_model": llm}
        report = build_checkpoint("pllava", tmp_path / f"{name}-out", **parts, **SMALL["pllava"])
        assert any("reads at most 8: choose fewer frames" in note for note in report.notes) is told


@pytest.mark.parametrize("design", ["pllava", "linvt", "linvt before an image-LLM", "convert iva"])
def test_copies_of_pickles_grow_beside_the_destination(
    design: str, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing as large as the weights goes to the system's folder for temporary files, which here is not there."""
    folders = [sources("qwen2"), sources("clip")]
    if design == "linvt before an image-LLM":
        folders = [Path(write_llava(tmp_path / "llava"))]
    pickled = [as_pickle(folder, tmp_path / "pickled" / folder.name) for folder in folders]
    copied: list[Path] = []
    copy = parts.as_safetensors
    monkeypatch.setattr(parts, "as_safetensors", lambda *given: copied.append(copy(*given)) or copied[-1])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    out = tmp_path / "out"
    if design == "convert iva":
        convert_iva(pickled[1], pickled[0], out, num_insertions=1, num_query_tokens=2, adapter_hidden_size=24)
    elif len(pickled) == 1:
        build_checkpoint("linvt", out, image_llm=pickled[0], **SMALL["linvt"])
    else:
        build_checkpoint(design, out, vision=pickled[1], language_model=pickled[0], **SMALL[design])
    assert len(copied) == len(pickled)
    for folder in copied:
        assert tmp_path / ".out.partial" in folder.parents, folder
    assert not [path for path in out.iterdir() if path.is_dir()]
    # Control: what asks the system for a temporary folder fails.
    with pytest.raises(FileNotFoundError):
        tempfile.mkdtemp()


def as_pickle(folder: Path, destination: Path) -> Path:
    shutil.copytree(folder, destination)
    torch.save(load_file(destination / "model.safetensors"), destination / "pytorch_model.bin")
    (destination / "model.safetensors").unlink()
    return destination


def test_linvt_before_an_image_llm(tmp_path: Path, clips: list[str]) -> None:
    image_llm = Path(write_llava(tmp_path / "llava"))
    build_checkpoint("linvt", tmp_path / "out", image_llm=image_llm, **SMALL["linvt"])
    model, processor = load(tmp_path / "out")
    check_training(model, processor, clips[0])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in load_file(image_llm / "model.safetensors").items():
        assert any(torch.equal(tensor, own) for own in stored.values() if own.shape == tensor.shape), name
    # An adapter alone finds its image-LLM again.
    assert model.config.backbone_name == str(image_llm)


def test_iva_with_its_adapter(sources: Sources, clips: list[str], tmp_path: Path) -> None:
    build("iva", "smollm3", sources, tmp_path / "out", num_insertions=2, num_query_tokens=3, adapter_hidden_size=24)
    model, processor = load(tmp_path / "out")
    check_text(model, processor, sources("smollm3"))
    queries, words = model.model.query_tokens.weight, model.get_input_embeddings().weight
    torch.testing.assert_close(queries.square().mean().sqrt(), words.square().mean().sqrt())
    inputs = ask(processor, {"type": "video", "path": clips[0]})
    assert (inputs["input_ids"][0, -3:] == model.config.query_token_id).all()


def test_no_second_beginning_of_text(sources: Sources, tmp_path: Path) -> None:
    """The control of the families that add one themselves: their tokenizers do, before a text."""
    build("ftfv", "llama", sources, tmp_path / "out")
    _, processor = load(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(sources("llama"))
    bos = tokenizer.bos_token_id
    assert tokenizer(QUESTION)["input_ids"][0] == bos
    assert (ask(processor)["input_ids"] == bos).sum() == 1
    build("ftfv", "llama_tied", sources, tmp_path / "more")
    # ChatML has none, so there is none, though the tokenizer would add it.
    assert AutoTokenizer.from_pretrained(sources("llama_tied"))(QUESTION)["input_ids"][0] == bos
    assert not (ask(load(tmp_path / "more")[1])["input_ids"] == bos).any()


@torch.no_grad()
def test_other_logits_are_refused(sources: Sources) -> None:
    """The control of the check that every build makes."""
    llm = AutoModelForCausalLM.from_pretrained(sources("qwen2"))
    refuse_other_logits(llm, llm, set())
    other = AutoModelForCausalLM.from_pretrained(sources("qwen2"))
    other.model.norm.weight.mul_(1.01)
    with pytest.raises(CheckpointError, match="Qwen2ForCausalLM does more to its logits than a linear head"):
        refuse_other_logits(other, llm, set())


def test_conversions_look_at_the_logits_too(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IVA compares them; FTFV, which holds no language model, asks whether it knows what the family does."""
    arguments = {"vision": sources("clip"), "language_model": sources("cohere"), "num_insertions": 0}
    convert_iva(destination=tmp_path / "out", **arguments)
    read_language(sources("cohere"), tmp_path)
    # The control: without the rule of the family, they would be others.
    monkeypatch.setattr("hf_videollm.models.video_llm_head.FACTORS", {})
    with pytest.raises(CheckpointError, match="CohereForCausalLM does more to its logits"):
        convert_iva(destination=tmp_path / "other", **arguments)
    assert not (tmp_path / "other").exists()
    with pytest.raises(CheckpointError, match=r"does something to its logits \(logit_scale is 0.25\)"):
        read_language(sources("cohere"), tmp_path)


BOTH = {"vision": "clip", "language_model": "qwen2"}
WRONG: dict[str, tuple[str, dict[str, str], dict[str, Any], str]] = {
    "design": ("plava", {}, {}, "There is no design 'plava'.*Did you mean pllava"),
    "no tower": ("pllava", {"language_model": "qwen2"}, {}, r"built from a vision tower.*--vision FOLDER"),
    "no llm": ("ftfv", {"vision": "clip"}, {}, r"built from a language model.*--llm FOLDER"),
    "no audio": (
        "videollama2_av",
        BOTH,
        {},
        "built from an audio tower.*--audio",
    ),
    "audio for the deaf": (
        "pllava",
        {**BOTH, "audio": "beats"},
        {},
        "takes no audio tower here: leave out --audio",
    ),
    "towers swapped": (
        "iva",
        {"vision": "qwen2", "language_model": "clip"},
        {},
        "describes a model of type 'clip_vision_model', which is no causal",
    ),
    "tower twice": (
        "iva",
        {"vision": "clip", "language_model": "clip"},
        {},
        "no causal language model: pass",
    ),
    "llm as audio": (
        "videollama2_av",
        {**BOTH, "audio": "qwen2"},
        {},
        "which is no BEATs: pass Microsoft's .pt",
    ),
    "llm as image-LLM": ("linvt", {"image_llm": "qwen2"}, {}, "which is no image-LLM: pass the folder of an image-LLM"),
    "unknown field": (
        "pllava",
        BOTH,
        {"pooling_shapes": [2, 2, 2]},
        "PllavaConfig has no field pooling_shapes: did you mean pooling_shape",
    ),
    "field of the sources": (
        "pllava",
        BOTH,
        {"video_token_id": 3},
        "video_token_id is determined by the sources",
    ),
    "impossible field": (
        "iva",
        BOTH,
        {"num_insertions": 9},
        "No iva can be built .*: num_insertions is 9, but the language model has 4 layers",
    ),
    "impossible type": (
        "pllava",
        BOTH,
        {"dtype": "int8"},
        "dtype must be one of",
    ),
    "a head that does more": (
        "linvt",
        {"vision": "clip", "language_model": "cohere"},
        {},
        "CohereForCausalLM does more to",
    ),
    "gpt2 in a llava": ("linvt", {"vision": "clip", "language_model": "gpt2"}, {}, "cannot be part of a LLaVA"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_one_line_that_says_what_to_do(name: str, sources: Sources, tmp_path: Path) -> None:
    design, given, options, words = WRONG[name]
    with pytest.raises(CheckpointError, match=words) as caught:
        build_checkpoint(design, tmp_path / "out", **{key: sources(one) for key, one in given.items()}, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Values that nothing can be built of, whatever kind of error they would end in.
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "linvt": {
        "num_frames": 0,
        "num_layers": "abc",
        "num_queries": [],
        "linvt_config": {},
        "num_attention_heads": 10**9,
    },
    "pllava": {
        "projector_hidden_act": "foo",
        "vision_feature_layer": -99,
        "pooling_shape": [0, 1, 1],
        "num_frames": "many",
        "lora_alpha": 16,
        "lora_adapter": "lora",
        "lora_training_alpha": 4.0,
        "lora_merged_alpha": 4.0,
    },
    "iva": {"causal_num_heads": 0, "num_query_tokens": -1, "num_insertions": 10**9},
    "ftfv": {"num_tokens_per_frame": 0, "adapter_num_heads": 3},
    "videollama2": {"vision_feature_select_strategy": "some"},
}


@pytest.mark.parametrize("design", IMPOSSIBLE)
def test_impossible_values_are_one_line(design: str, sources: Sources, tmp_path: Path) -> None:
    for name, value in IMPOSSIBLE[design].items():
        with pytest.raises(
            CheckpointError, match=r"No \w+ can be built|cannot be set|cannot process a frame"
        ) as caught:
            build(design, "qwen2", sources, tmp_path / "out", **{name: value})
        assert "\n" not in str(caught.value), name
        assert re.search(rf"\b{name}\b", str(caught.value)), str(caught.value)
        assert list(tmp_path.iterdir()) == [], name


def test_what_would_not_load_is_not_written(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_videollm.build.options.TAKEN", ())
    with pytest.raises(CheckpointError, match="would not load again"):
        build("pllava", "qwen2", sources, tmp_path / "out", lora_alpha=16)
    assert list(tmp_path.iterdir()) == []
    # The control: without it, the same is written.
    build("pllava", "qwen2", sources, tmp_path / "out")


def write_other_tower(folder: Path, kind: str) -> Path:
    tower = DeiTModel(DeiTConfig(**TOWER)) if kind == "deit" else None
    tower = tower or Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TOWER, num_register_tokens=2))
    tower.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    return folder


@pytest.mark.parametrize("kind", ["deit", "registers"])
@pytest.mark.parametrize("design", ["linvt", "pllava"])
def test_towers_with_further_tokens(design: str, kind: str, sources: Sources, tmp_path: Path) -> None:
    tower = write_other_tower(tmp_path / "tower", kind)
    with pytest.raises(CheckpointError, match=r"gives \d+ features per frame, but its configuration has 4 x 4 patches"):
        build_checkpoint(design, tmp_path / "out", vision=tower, language_model=sources("qwen2"), **SMALL[design])
    assert not (tmp_path / "out").exists()


def test_linvt_of_sources_of_two_types(sources: Sources, tmp_path: Path) -> None:
    llm = write_llm(tmp_path / "llm", "qwen2", torch.bfloat16)
    build_checkpoint("linvt", tmp_path / "out", vision=sources("clip"), language_model=llm, **SMALL["linvt"])


def test_an_image_llm_has_its_tokenizer(sources: Sources, tmp_path: Path) -> None:
    image_llm = Path(write_llava(tmp_path / "llava"))
    with pytest.raises(CheckpointError, match="takes no tokenizer here: leave out --tokenizer"):
        build_checkpoint("linvt", tmp_path / "out", image_llm=image_llm, tokenizer=sources("qwen2"), **SMALL["linvt"])
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be(sources: Sources, tmp_path: Path) -> None:
    clip, llm = sources("clip"), write_llm(tmp_path / "llm", "llama")
    usual: dict[str, Any] = {"destination": tmp_path / "out", "vision": clip, "language_model": llm}

    def refused(words: str, **given: Any) -> None:
        with pytest.raises((CheckpointError, FileExistsError), match=words):
            build_checkpoint("ftfv", **{**usual, **given})
        assert not (tmp_path / "out").exists()

    refused("does not exist: pass the folder of the language model", language_model=tmp_path / "nothing")
    refused("is, or contains, the language model", destination=llm, overwrite=True)
    with pytest.raises(FileExistsError, match="not empty"):
        build_checkpoint("ftfv", **{**usual, "destination": sources("qwen2")})
    resnet = tmp_path / "resnet"
    resnet.mkdir()
    (resnet / "config.json").write_text('{"model_type": "resnet"}')
    refused("describes a model of type 'resnet', which has no image_size: use a tower with a grid", vision=resnet)
    registers = tmp_path / "registers"
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TOWER, num_register_tokens=2)).save_pretrained(registers)
    refused("has no preprocessor_config.json", vision=registers)
    (registers / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    refused("gives 18 features per frame, but its configuration has 4 x 4 patches", vision=registers)
    refused("the language model only 297: pass the tokenizer", tokenizer=larger_tokenizer(tmp_path / "words", llm))
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (llm / file).unlink()
    refused("has no tokenizer.*--tokenizer FOLDER")
    # With one from elsewhere, it can be.
    build_checkpoint("ftfv", **usual, tokenizer=sources("mistral"), **SMALL["ftfv"])


def larger_tokenizer(folder: Path, source: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([f"word{number}" for number in range(50)])
    tokenizer.save_pretrained(folder)
    return folder


def test_the_command(cli: Callable[..., tuple[int, str, str]], sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("build", "pllava", "--vision", str(sources("clip")), "--llm", str(sources("qwen2")), str(out))
    code, printed, error = cli(*arguments, "--frames", "4", "--set", "pooling_shape=[2,2,2]", "--json")
    assert (code, error) == (0, "")
    assert json.loads(printed)["new_parts"] == ["connector"]
    assert json.loads((out / "config.json").read_text())["pooling_shape"] == [2, 2, 2]
    code, printed, error = cli(*arguments)
    assert (code, printed) == (2, "")
    assert "--overwrite" in error
    code, printed, _ = cli(*arguments, "--overwrite", "--dtype", "bfloat16")
    assert code == 0
    assert "random values, seed 0" in printed
    assert "next" in printed
    for wrong in (("--set", "pooling_shape"), ("--set", "a=1", "--set", "a=2"), ("--llm", str(out))):
        code, printed, error = cli(*arguments, "--overwrite", *wrong)
        assert (code, printed, error.count("\n")) == (2, "", 1)
    code, printed, _ = cli("build", "--help")
    assert code == 0
    assert all(f"hf-videollm build {design} --" in printed for design in buildable())
