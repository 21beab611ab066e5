"""Modules that moved are found by their old names, too: programs that were written for an earlier release go on."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hf_videollm
from hf_videollm.moved import MOVED

PACKAGE = Path(hf_videollm.__file__).parent


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
    command = [sys.executable, "-m", f"hf_videollm.{old}", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"hf_videollm\.hub\.nothing"):
        importlib.import_module("hf_videollm.hub.nothing")
