"""Quantized loading: the language model is quantized and nothing else, and what is saved computes what was saved.

The rule is tried over designs times quantizers. Each property has its control: layers that are quantized, a list of the
user's own that is followed, logits that the quantization moves.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import (
    TEXT_TOWERS,
    DesignCase,
    ftfv_case,
    iva_case,
    pllava_case,
    videollama2_av_case,
    videollama2_case,
    with_labels,
)
from linvt_design_case import LINVT_CASES
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from quantizers import QUANTIZERS, each_quantizer, marks_of
from tiny_image_llms import CASES as FAMILIES
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantized loading is tested with bitsandbytes")

from hf_videollm.models.video_llm_quantization import modules_beside  # noqa: E402

# Wide enough for the layout in which bitsandbytes keeps 4-bit weights on some CPUs; the others are too narrow.
WIDE = replace(
    pllava_case("llama", text_config={**TEXT_TOWERS["llama"], "hidden_size": 64, "intermediate_size": 128}),
    name="pllava-wide",
)
CASES: list[DesignCase] = [
    pllava_case("llama"),
    # Linear layers of another class, whose weights stand the other way round.
    pllava_case("gpt2"),
    pllava_case("gemma2", tie_word_embeddings=True),
    WIDE,
    videollama2_case("stc_connector_v35", "qwen2", "siglip_vision_model"),
    videollama2_av_case("qwen2"),
    iva_case("llama"),
    ftfv_case("llama"),
    *LINVT_CASES,
]
SKIP_LIST = {name: "modules_to_not_convert" if "torchao" in name else "llm_int8_skip_modules" for name in QUANTIZERS}
# The other two are like these; and torchao knows no linear layers like GPT-2's.
PAIRS = [
    pytest.param(case, quantizer, id=f"{case.name}-{quantizer}", marks=marks_of(quantizer))
    for case in CASES
    for quantizer in QUANTIZERS
    if (quantizer in ("int8", "nf4", "torchao-int8") or case in (WIDE, CASES[-1]))
    and not ("gpt2" in case.name and "torchao" in quantizer)
]
# One of each design.
DESIGNS = [case for case in CASES if case.name.split("-")[1] not in ("gpt2", "gemma2", "wide", "qwen2_vl")]
each_design = pytest.mark.parametrize("case", DESIGNS, ids=lambda case: case.name)
LORA_TARGETS = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[DesignCase], Path]:
    """The checkpoint of a case, written once."""
    folders: dict[str, Path] = {}

    def write(case: DesignCase) -> Path:
        if case.name not in folders:
            folders[case.name] = tmp_path_factory.mktemp("quantized") / case.name
            case.make_model().save_pretrained(folders[case.name], save_original_format=False)
        return folders[case.name]

    return write


def load(source: Path, **options: Any) -> Any:
    return AutoModelForImageTextToText.from_pretrained(source, **options).eval()


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch)[0]


def weights_of_layers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The matrices of all linear layers, by their names in the model without a head."""
    modules = {name.removeprefix("model."): module for name, module in model.named_modules()}
    # Not those of torch's own attention, in the head of SigLIP, whose weights are read past the layer.
    within = nn.modules.linear.NonDynamicallyQuantizableLinear
    return {
        name: module.weight
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and not isinstance(module, within)
    }


def is_quantized(weight: torch.Tensor) -> bool:
    return type(weight) is not nn.Parameter


def quantized_layers(model: nn.Module) -> set[str]:
    return {name for name, weight in weights_of_layers(model).items() if is_quantized(weight)}


def language_layers(model: nn.Module) -> set[str]:
    return {name for name in weights_of_layers(model) if "language_model." in name}


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize(("case", "quantizer"), PAIRS)
def test_the_language_model_alone_is_quantized_and_reloads_equal(
    case: DesignCase, quantizer: str, folder_of: Callable[[DesignCase], Path], tmp_path: Path
) -> None:
    source, batch = folder_of(case), case.make_batch([["v4", "i"], [], ["v2"]])
    model = load(source, quantization_config=QUANTIZERS[quantizer](), device_map="cpu")
    assert quantized_layers(model) == language_layers(model) != set()
    before = logits(model, batch)
    assert (before - logits(load(source), batch)).abs().max() > 0, "the control: quantizing changes what is computed"
    # After an answer, as people try a model before they save it: bitsandbytes then keeps 4-bit weights packed.
    model.save_pretrained(tmp_path)
    assert size(tmp_path) < size(source)
    again = load(tmp_path)
    assert quantized_layers(again) == quantized_layers(model)
    # The same numbers go through the same kernels, so to the last bit.
    assert torch.equal(logits(again, batch), before)
    assert torch.equal(logits(model, batch), before), "saving changes nothing"


@each_quantizer(["int8", "torchao-int8"])
@each_design
def test_a_list_of_the_users_own_is_followed(
    case: DesignCase, quantizer: str, folder_of: Callable[[DesignCase], Path], tmp_path: Path
) -> None:
    own = QUANTIZERS[quantizer](**{SKIP_LIST[quantizer]: ["lm_head"]})
    model, batch = load(folder_of(case), quantization_config=own), case.make_batch([["v4"], ["v2"]])
    # Towers, connectors, adapters and BEATs too, and all of them run and come back.
    assert quantized_layers(model) == weights_of_layers(model).keys() - {"lm_head"}
    before = logits(model, batch)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path), batch), before)


@each_quantizer(["int8", "torchao-int8"])
def test_the_users_objects_stay_as_they_are(quantizer: str, folder_of: Callable[[DesignCase], Path]) -> None:
    given, config = QUANTIZERS[quantizer](), AutoConfig.from_pretrained(folder_of(CASES[0]))
    before = copy.deepcopy((given.to_dict(), config.to_dict()))
    model = load(folder_of(CASES[0]), quantization_config=given, config=config)
    assert (given.to_dict(), config.to_dict()) == before
    assert "model.vision_tower" in getattr(model.config.quantization_config, SKIP_LIST[quantizer])


def test_a_dict_is_a_quantization_config(folder_of: Callable[[DesignCase], Path]) -> None:
    given = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    model = load(folder_of(CASES[0]), quantization_config=given)
    assert quantized_layers(model) == language_layers(model) != set()
    assert given == {"quant_method": "bitsandbytes", "load_in_8bit": True}


@each_design
def test_the_model_without_a_head(case: DesignCase, folder_of: Callable[[DesignCase], Path], tmp_path: Path) -> None:
    model, batch = load(folder_of(case), quantization_config=QUANTIZERS["int8"]()), case.make_batch([["v4"], ["v2"]])
    model.save_pretrained(tmp_path / "whole")
    expected = logits(model.model, batch)
    # Of a whole quantized checkpoint, and quantized itself, saved and loaded again.
    headless = AutoModel.from_pretrained(tmp_path / "whole").eval()
    assert torch.equal(logits(headless, batch), expected)
    headless = AutoModel.from_pretrained(folder_of(case), quantization_config=QUANTIZERS["int8"]()).eval()
    assert quantized_layers(headless) == quantized_layers(model)
    headless.save_pretrained(tmp_path / "headless")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "headless").eval(), batch), expected)


def test_a_quantized_checkpoint_of_an_earlier_release_loads(
    folder_of: Callable[[DesignCase], Path], tmp_path: Path
) -> None:
    """It has its towers quantized too, and names no modules that are not."""
    own = QUANTIZERS["int8"](llm_int8_skip_modules=["lm_head"])
    model, batch = load(folder_of(CASES[0]), quantization_config=own), CASES[0].make_batch([["v2"]])
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["quantization_config"]["llm_int8_skip_modules"] = None
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert torch.equal(logits(load(tmp_path), batch), logits(model, batch))


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device_map", ["auto", None])
def test_dtypes_and_devices(
    dtype: Any, device_map: str | None, folder_of: Callable[[DesignCase], Path], tmp_path: Path
) -> None:
    batch = WIDE.make_batch([["v2"]])
    model = load(folder_of(WIDE), quantization_config=QUANTIZERS["nf4"](), dtype=dtype, device_map=device_map)
    assert model.model.vision_tower.dtype == (torch.float32 if dtype == "auto" else dtype)
    before = logits(model, batch)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path, device_map=device_map), batch), before)


# PEFT 0.21 switches checkpointing on under its old name.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
@each_quantizer(["int8", "nf4"])
@each_design
def test_a_lora_learns_on_a_quantized_language_model(
    case: DesignCase, quantizer: str, folder_of: Callable[[DesignCase], Path]
) -> None:
    model = prepare_model_for_kbit_training(load(folder_of(case), quantization_config=QUANTIZERS[quantizer]()))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=LORA_TARGETS)).train()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    batch = with_labels(case.make_batch([["v4"], ["v2"]]))
    optimizer = torch.optim.SGD(trained.values(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = model(**batch).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_every_image_llm_of_linvt_has_its_language_model_apart() -> None:
    """Whatever the family calls its tower and its projector."""
    for name, (model_type, options, *_) in FAMILIES.items():
        with torch.device("meta"):
            image_llm = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **options)).model
        language_model = image_llm.get_decoder()
        assert language_model is not image_llm, name
        beside = list(modules_beside(image_llm, language_model))
        for layer, module in image_llm.named_modules():
            if isinstance(module, nn.Linear):
                inside = any(module is part for part in language_model.modules())
                assert inside != any(layer == part or layer.startswith(f"{part}.") for part in beside), (name, layer)
