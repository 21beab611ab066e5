"""What the package asks of a design is declared on its base classes: nobody looks whether an attribute is there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_videollm
from hf_videollm.designs import DESIGNS
from hf_videollm.models.video_llm_contract import ConfigContract, ModelContract, ProcessorContract

PACKAGE = Path(hf_videollm.__file__).parent
# Objects of other libraries, of which some have what others lack; and fields that a list of names goes through.
# What is asked -> why. Nothing of a design may stand here.
FOREIGN = {
    # Python and the operating system.
    "getattr(errno, 'EDQUOT', errno.ENOSPC)": "not on every operating system",
    "getattr(resource, name)": "not on every operating system",
    "getattr(signal, name)": "not on every operating system",
    "hasattr(signal, name)": "not on every operating system",
    "getattr(self.own, name)": "the loader of any module",
    "getattr(os, 'O_BINARY', 0)": "not on every operating system",
    "hasattr(self._local, 'asker')": "what a thread keeps for itself",
    "hasattr(self._sessions, 'session')": "what a thread keeps for itself",
    "getattr(import_module(f'.{STAND_INS[name]}', __name__), f'write_{name}')": "a function that a table names",
    # typer brings click under names of its own.
    "hasattr(error, 'format_message')": "click's errors, from whichever copy of click",
    "getattr(error, 'ctx', None)": "click's errors",
    "getattr(getattr(error, 'ctx', None), 'command_path', None)": "click's errors",
    "getattr(context.command, 'commands', {})": "click's groups and commands",
    # torch, PEFT and transformers.
    "hasattr(aten, '_grouped_mm')": "not in every torch",
    "getattr(trainer, 'is_deepspeed_enabled', False)": "trainers of several releases",
    "getattr(trainer, 'is_fsdp_enabled', False)": "trainers of several releases",
    "hasattr(model, 'get_base_model')": "a model in PEFT's wrapper",
    "getattr(model, 'is_quantized', False)": "transformers sets it on quantized models alone",
    "getattr(config, 'quantization_config', None)": "transformers sets it on quantized models alone",
    "getattr(text_config, 'num_key_value_heads', None)": "configurations of any language model",
    "getattr(text_config, 'head_dim', None)": "configurations of any language model",
    "getattr(text, name, None)": "configurations of any language model",
    "getattr(config, name)": "configurations of any language model",
    "getattr(head, 'bias', None)": "the head of any language model",
    "getattr(found, name, None)": "configurations of any vision tower",
    "hasattr(found, 'vision_config')": "configurations of any vision tower",
    "getattr(vision, 'num_channels', 3)": "configurations of any vision tower",
    "getattr(part, 'do_center_crop', None)": "image processors of any image-LLM",
    "getattr(part, 'crop_size', None)": "image processors of any image-LLM",
    "getattr(part, 'do_resize', None)": "image processors of any image-LLM",
    "getattr(part, 'size', None)": "image processors of any image-LLM",
    "getattr(value, name, None)": "sizes of transformers, as dicts or objects",
    "getattr(config, '_attn_implementation', None)": "transformers has no public name for it",
    "getattr(config, '_commit_hash', None)": "transformers has no public name for it",
    "hasattr(value, 'nbytes')": "tensors and arrays among other values",
    "hasattr(value, 'to')": "tensors among other values",
    "getattr(ModelCard(f'---\\n{text}\\n---\\n').data, 'eval_results', None)": "a card may have none",
    # huggingface_hub and bitsandbytes.
    "getattr(_response(error), 'status_code', None)": "errors of the Hub's client",
    "getattr(found, 'response', None)": "errors of the Hub's client",
    "getattr(_response(error), 'headers', None)": "errors of the Hub's client",
    "getattr(response, 'headers', None)": "errors of the Hub's client",
    "getattr(parameter.quant_state, 'packing_format_for_cpu', False)": "bitsandbytes sets it on packed weights alone",
    "hasattr(tensor, 'dequantize_')": "quantized tensors of torchao among others",
    "getattr(config.tower_config(), 'image_size', None)": "configurations of any vision tower",
    "hasattr(entry, 'blob_id')": "files among the folders of a repository",
    "hasattr(os, 'getuid')": "not on every operating system",
    "getattr(model, 'name_or_path', '')": "models of any library, which `push_to_hub` was called on",
    "getattr(model, 'config', None)": "models of any library, which `push_to_hub` was called on",
    "getattr(getattr(model, 'config', None), 'model_type', '')": (
        "models of any library, which `push_to_hub` was called on"
    ),
    # Own dataclasses and generation configurations, gone through by the names of their fields.
    "getattr(self, attribute)": "a row of the table of designs",
    "getattr(own, name)": "a generation configuration",
    "getattr(own, field)": "a style of prompts",
    "getattr(self, name)": "a dataclass of options of the command line",
    "getattr(self, field.name)": "a dataclass of options of the command line",
    "getattr(self.judging, entry.name)": "a dataclass of options of the command line",
    "hasattr(self.answering, name)": "a dataclass of options of the command line",
    "getattr(holder, name)": "a dataclass of options of the command line",
    "getattr(group, field.name)": "a dataclass of options of the command line",
    "getattr(medium, name)": "a medium of a benchmark",
    "getattr(scored, name)": "the score of an answer",
}


def questions(source: str) -> Iterator[str]:
    """Calls that look an attribute up by its name, and look-ups of modules by theirs."""
    for node in ast.walk(ast.parse(source)):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        is_attribute = isinstance(node, ast.Attribute) and node.attr == "modules"
        # Writing a node out takes long, so only those are that may be one.
        text = ast.unparse(node) if is_attribute or called in ("getattr", "hasattr", "vars") else ""
        if called in ("getattr", "hasattr") or text in ("sys.modules", "vars(sys)"):
            yield text


def questions_on_designs(source: str) -> list[str]:
    return [text for text in questions(source) if text not in FOREIGN]


def files_outside_models() -> list[Path]:
    files = PACKAGE.rglob("*.py")
    # `after_import` asks whether a module has been imported: that is its whole purpose.
    return sorted(file for file in files if file.parent.name != "models" and file.name != "after_import.py")


def test_nobody_asks_whether_a_design_has_an_attribute() -> None:
    found = {
        str(file.relative_to(PACKAGE)): asked
        for file in files_outside_models()
        if (asked := questions_on_designs(file.read_text()))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "hears = hasattr(model, 'get_audio_features')",
        "images = getattr(config, 'num_image_tokens', None)",
        "module = sys.modules[type(processor).__module__]",
        "names = [n for n in getattr(self.processor, 'MODEL_OPTIONS', ())]",
    ],
)
def test_control_questions_on_designs_are_found(source: str) -> None:
    assert len(questions_on_designs(source)) == 1


def test_every_exception_is_needed() -> None:
    asked = {text for file in PACKAGE.rglob("*.py") for text in questions(file.read_text())}
    assert set(FOREIGN) <= asked


CONTRACTS = {
    "config": ConfigContract,
    "model": ModelContract,
    "generating_model": ModelContract,
    "processor": ProcessorContract,
}


@pytest.mark.parametrize("part", CONTRACTS)
@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_has_the_contract(name: str, part: str) -> None:
    assert issubclass(DESIGNS[name].load(part), CONTRACTS[part])


def test_the_contract_is_documented() -> None:
    """Each name of the contract is explained in docs/contract.md."""
    page = (PACKAGE.parents[1] / "docs" / "contract.md").read_text()
    for contract in CONTRACTS.values():
        names = [name for name in vars(contract) if not name.startswith("_")]
        assert names
        assert not [name for name in names if f"`{name}`" not in page and f"`{name}(" not in page]
