"""What a user passes in stays as it is, and a model follows its language model where nothing else is said."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from factory import FTFV_CASES, IVA_CASES, PLLAVA_CASES, VIDEOLLAMA2_AV_CASES, VIDEOLLAMA2_CASES, DesignCase
from tiny_image_llms import CASES as IMAGE_LLMS
from tiny_image_llms import MODULE
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_videollm.models.configuration_linvt import LinVTConfig
from hf_videollm.models.modeling_linvt import LinVTForCausalLM
from hf_videollm.models.video_llm_head import (
    BOUNDS,
    DIVISORS,
    FACTORS,
    LOGIT_FIELD,
    PLAIN,
    scale_logits,
    unknown_logit_field,
)

DESIGNS = [cases[0] for cases in (PLLAVA_CASES, VIDEOLLAMA2_CASES, VIDEOLLAMA2_AV_CASES, FTFV_CASES, IVA_CASES)]
LLM: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "initializer_range": 0.2,
}
by_design = pytest.mark.parametrize("case", DESIGNS, ids=[case.name for case in DESIGNS])


def text_config(model_type: str = "llama", **changes: Any) -> Any:
    return AutoConfig.for_model(model_type, **{**LLM, **changes})


def image_llm_config(**changes: Any) -> Any:
    model_type, options, *_ = IMAGE_LLMS["llava_clip_llama"]
    return AutoConfig.for_model(model_type, **copy.deepcopy(options), **changes)


@by_design
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("form", ["object", "dict"])
def test_the_head_is_tied_as_in_the_language_model(case: DesignCase, is_tied: bool, form: str) -> None:
    text = text_config(tie_word_embeddings=is_tied)
    given = text if form == "object" else text.to_dict()
    model = case.model_class(case.make_config(text_config=given, tie_word_embeddings=None))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is is_tied
    # What is said goes before what follows.
    other = case.make_config(text_config=text, tie_word_embeddings=not is_tied)
    assert case.model_class.config_class(**other.to_dict()).tie_word_embeddings is not is_tied


@pytest.mark.parametrize("is_tied", [True, False])
def test_linvt_is_tied_as_the_image_llm(is_tied: bool) -> None:
    config = LinVTConfig(backbone_config=image_llm_config(tie_word_embeddings=is_tied), linvt_config=MODULE)
    model = LinVTForCausalLM(config)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is is_tied


@by_design
def test_the_decoder_of_a_tied_language_model_brings_its_head(case: DesignCase) -> None:
    """The way of the first fault: weights of the decoder alone."""
    llm = AutoModelForCausalLM.from_config(text_config(tie_word_embeddings=True)).eval()
    model = case.model_class(case.make_config(text_config=llm.config, tie_word_embeddings=None)).eval()
    model.model.language_model.load_state_dict(llm.model.state_dict())
    ids = torch.randint(3, 90, (2, 7))
    assert torch.equal(model(ids).logits, llm(ids).logits)
    # The control: not of random weights.
    other = case.model_class(case.make_config(text_config=llm.config)).eval()
    assert not torch.equal(other(ids).logits, llm(ids).logits)


@by_design
def test_one_model_does_not_change_the_next(case: DesignCase) -> None:
    text = text_config()
    parts = {**case.config, "text_config": text}
    before = text.to_dict()
    config = case.model_class.config_class(**parts)
    written = config.to_dict()
    first = case.model_class(config)
    first.resize_token_embeddings(200)
    first.set_attn_implementation("eager")
    assert first.config.text_config.vocab_size == len(first.get_input_embeddings().weight) == 200
    assert text.to_dict() == before
    assert config.to_dict() == written
    second = case.model_class(config)
    assert len(second.get_input_embeddings().weight) == len(second.lm_head.weight) == 120
    assert case.model_class.config_class(**parts).text_config.vocab_size == 120
    # The headless model and the one with a head agree.
    assert first.config is first.model.config
    assert first.config.text_config is first.model.language_model.config
    # A base model alone, too.
    base = case.model_class.model_class(config)
    base.resize_token_embeddings(150)
    assert config.to_dict() == written


def test_one_linvt_does_not_change_the_next() -> None:
    backbone = image_llm_config()
    before = backbone.to_dict()
    config = LinVTConfig(backbone_config=backbone, linvt_config=MODULE)
    written = config.to_dict()
    model = LinVTForCausalLM(config)
    model.resize_token_embeddings(300)
    model.set_attn_implementation("eager")
    assert backbone.to_dict() == before
    assert config.to_dict() == written
    assert model.config.get_text_config().vocab_size == 300
    assert len(LinVTForCausalLM(config).lm_head.weight) == before["text_config"]["vocab_size"]


# Families that do something behind their head, with numbers that show it; some only exist in newer releases.
MOE = {"num_local_experts": 2, "num_experts_per_tok": 1}
SCALED: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 1.5, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {"final_logit_softcapping": 1.5, "head_dim": 8, "query_pre_attn_scalar": 8},
    "vaultgemma": {"final_logit_softcapping": 1.5, "head_dim": 8, "query_pre_attn_scalar": 8},
    "nanochat": {"final_logit_softcapping": 1.5},
    "recurrent_gemma": {"logits_soft_cap": 1.5, "lru_width": 32, "block_types": ["recurrent", "attention"]},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "granitemoe": {"logits_scaling": 4.0, **MOE},
    "hyperclovax": {"logits_scaling": 4.0},
    "falcon_h1": {"lm_head_multiplier": 0.25, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "minicpm3": {
        "dim_model_base": 8,
        "num_key_value_heads": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    },
}
known = [name for name in SCALED if name in CONFIG_MAPPING]


def llm_and_model(case: DesignCase, llm: Any) -> Any:
    model = case.model_class(case.make_config(text_config=llm.config)).eval()
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.lm_head.load_state_dict(llm.lm_head.state_dict())
    return model


@torch.no_grad()
@pytest.mark.parametrize("model_type", known)
def test_what_a_language_model_does_behind_its_head(model_type: str) -> None:
    case = DESIGNS[known.index(model_type) % 3]
    llm = AutoModelForCausalLM.from_config(text_config(model_type, **SCALED[model_type])).eval()
    model = llm_and_model(case, llm)
    ids = torch.randint(3, 90, (2, 7))
    torch.testing.assert_close(model(ids).logits, llm(ids).logits)
    # The control: without it, the logits are others.
    hidden = llm.model(ids).last_hidden_state
    plain = llm.lm_head(hidden)
    assert (plain - llm(ids).logits).abs().max() > 0.05
    torch.testing.assert_close(scale_logits(plain, llm.config), llm(ids).logits)
    assert torch.equal(scale_logits(plain, text_config()), plain)
    assert unknown_logit_field(llm.config) is None


def test_every_family_with_such_a_field_has_a_rule_or_is_refused() -> None:
    """Newer releases bring more of them."""
    folder = Path(transformers.__file__).parent / "models"
    sources = {file: file.read_text() for file in folder.glob("*/configuration_*.py")}
    words = re.compile(rf"^    (?:{LOGIT_FIELD.pattern}):", re.MULTILINE)
    files = {file.stem.removeprefix("configuration_") for file, text in sources.items() if words.search(text)}
    config_classes = {
        name: CONFIG_MAPPING[name] for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name.removesuffix("_text") in files
    }
    ruled = {*FACTORS, *DIVISORS, *BOUNDS}
    assert {"gemma2", "cohere", "granite", "mpt"} <= config_classes.keys()
    for name, config_class in config_classes.items():
        fields = [field for field in config_class.__dataclass_fields__ if LOGIT_FIELD.fullmatch(field)]
        if fields and config_class.model_type not in {*ruled, *PLAIN}:
            config = config_class(**dict.fromkeys(fields, 1.5))
            assert unknown_logit_field(config) in fields, name


def test_words_are_no_numbers() -> None:
    """MPT's field may be a word, and its forward reads neither."""
    for value in ("inv_sqrt_d_model", 0.5):
        config = AutoConfig.for_model("mpt", logit_scale=value)
        logits = torch.randn(1, 2, 3)
        assert torch.equal(scale_logits(logits, config), logits)
        assert unknown_logit_field(config) is None
    # The control: a family of which nothing is known.
    assert unknown_logit_field(text_config(logit_scale=0.5)) == "logit_scale"
