"""What moved is found by its old name, too: programs that were written for an earlier release go on."""

import importlib
import json
from pathlib import Path

import pytest
import ready_python
import torch
from transformers import AutoModelForImageTextToText

import hf_videollm
from hf_videollm.models.linvt_backbones import Backbone
from hf_videollm.moved import MOVED, MOVED_NAMES

PACKAGE = Path(hf_videollm.__file__).parent
# Every module of commit 56fbe3b, with the names in its `__all__` (none for a module without `__all__`).
PUBLIC_NAMES: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "fixtures" / "public_names_56fbe3b.json").read_text()
)


def lost_names(modules: dict[str, list[str]]) -> list[str]:
    """Modules that cannot be imported, and names that cannot be imported from theirs."""
    lost = []
    for module_name, names in modules.items():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            lost.append(module_name)
        else:
            lost += [f"{module_name}:{name}" for name in names if not hasattr(module, name)]
    return lost


def test_every_public_name_of_56fbe3b_can_be_imported() -> None:
    assert sum(map(len, PUBLIC_NAMES.values())) > 500
    assert lost_names(PUBLIC_NAMES) == []


def test_control_lost_names_are_found() -> None:
    known = {"hf_videollm.convert.stream": ["read_header"], "hf_videollm.models.iva_hooks": ["hold_gradients"]}
    assert lost_names(known) == []
    assert lost_names({"hf_videollm.models.iva_hooks": ["nothing"]}) == ["hf_videollm.models.iva_hooks:nothing"]
    assert lost_names({"hf_videollm.hub.nothing": []}) == ["hf_videollm.hub.nothing"]


@pytest.mark.parametrize("module_name", MOVED_NAMES)
def test_an_old_name_is_imported_from_the_module_that_had_it(module_name: str) -> None:
    """In a fresh process, in the words that programs use."""
    names = ", ".join(MOVED_NAMES[module_name])
    program = f"from hf_videollm.{module_name} import {names}\nimport hf_videollm.{module_name} as module\n"
    program += "try:\n    module.nothing\nexcept AttributeError as error:\n    print(error)"
    result = ready_python.run("-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"module 'hf_videollm.{module_name}' has no attribute 'nothing'\n"


def test_old_names_that_are_in_their_module_again_are_in_no_table() -> None:
    for module_name, names in MOVED_NAMES.items():
        assert not set(names) & set(vars(importlib.import_module(f"hf_videollm.{module_name}")))


def test_functions_of_backbones_do_what_the_methods_do(tiny_image_llm: str) -> None:
    """They are called as they were: the image-LLM comes first."""
    old = importlib.import_module("hf_videollm.models.linvt_backbones")
    model = AutoModelForImageTextToText.from_pretrained(tiny_image_llm).model
    backbone = Backbone(model)
    old.check_backbone(model)
    for name in ("has_spatial_positions", "has_deepstack", "first_position"):
        assert getattr(old, name)(model) == getattr(backbone, name)
    size = model.config.vision_config.image_size
    media = {"pixel_values": torch.rand(3, 3, size, size)}
    for found, expected in (
        (old.encode_images(model, media), backbone.encode_images(media)),
        (old.encode_frames(model, media, [1, 2], chunk_size=1), backbone.encode_frames(media, [1, 2])),
    ):
        for one, other in zip(found.tokens, expected.tokens, strict=True):
            torch.testing.assert_close(one, other)
    ids, mask = torch.tensor([[0, 5, 6]]), torch.tensor([[0, 1, 1]])
    assert old.prompt_positions(model, ids, mask, ids < 0, {}).tolist() == [[0, 0, 1]]
    assert old.token_types(model, ids < 0, given=None) == {}
    embeds = torch.rand(1, 3, 4)
    assert old.special_embeddings(model, ids, embeds) is embeds


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_gives_the_module_at_its_new_place(old: str) -> None:
    old_module = importlib.import_module(f"hf_videollm.{old}")
    new_module = importlib.import_module(f"hf_videollm.{MOVED[old]}")
    assert old_module is new_module
    assert new_module.__spec__.name == f"hf_videollm.{MOVED[old]}"
    assert Path(new_module.__file__) == PACKAGE / f"{MOVED[old].replace('.', '/')}.py"


@pytest.mark.parametrize("old", sorted(MOVED))
def test_no_file_is_left_at_an_old_name(old: str) -> None:
    """It would be found first, and there would be two modules."""
    assert not (PACKAGE / f"{old.replace('.', '/')}.py").exists()


# Modules of which parts moved into other files; programs import the parts from the old name.
NAMES_OF_SPLIT_MODULES = {
    "training.sft": (
        "Recipe RecipeError freeze_all_but load_recipe make_trainer merge_turns run_sft show_sample split_rounds "
        "without_picture DEFAULT_ARGUMENTS FIXED_ARGUMENTS"
    ),
    "training.tiny": (
        "build_tiny_pllava build_tokenizer square_sizes start_with_positions take_over_weights tiny_towers vocabulary "
        "words_of SPECIAL_TOKENS KINDS_OF_QUESTIONS TEMPLATE_WORDS"
    ),
    "training.synthetic_check": "Answer Clip accuracies answer_questions held_out_clips",
}


@pytest.mark.parametrize("old", sorted(NAMES_OF_SPLIT_MODULES))
def test_old_modules_have_the_names_of_parts_that_moved(old: str) -> None:
    module = importlib.import_module(f"hf_videollm.{old}")
    assert [name for name in NAMES_OF_SPLIT_MODULES[old].split() if not hasattr(module, name)] == []


@pytest.mark.parametrize("old", ["data.synthetic", "data.synthetic_long"])
def test_commands_of_old_names_run(old: str) -> None:
    result = ready_python.run("-m", f"hf_videollm.{old}", "--help")
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"hf_videollm\.hub\.nothing"):
        importlib.import_module("hf_videollm.hub.nothing")
