"""Every cell of generation_table.py: the tokens of a loop by hand, or a refusal that names the option."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import FTFV_CASES, IVA_CASES, PLLAVA_CASES, VIDEOLLAMA2_AV_CASES, VIDEOLLAMA2_CASES, DesignCase
from generation_by_hand import STEPS, ByHand, tokens_of
from generation_page import PAGE, render
from generation_table import ALL, DESIGNS, TABLE, Listener, Option, plain
from linvt_design_case import LINVT_CASES
from transformers import GenerationConfig, GenerationMixin, LlamaConfig, LlamaForCausalLM

from hf_videollm.models.video_llm_generation_options import COMMON, IVA, LINVT, OFF

CASES: dict[str, DesignCase] = {
    "pllava": PLLAVA_CASES[0],
    "videollama2": VIDEOLLAMA2_CASES[0],
    "videollama2_av": VIDEOLLAMA2_AV_CASES[0],
    "ftfv": FTFV_CASES[0],
    "iva": IVA_CASES[0],
    "linvt": LINVT_CASES[0],
}
# They say something of the object itself.
NO_OPTIONS = {"_from_model_config", "transformers_version"}
GREEDY = {"do_sample": False, "max_new_tokens": STEPS}


@pytest.fixture(scope="module", params=DESIGNS)
def design(request: pytest.FixtureRequest) -> tuple[str, ByHand, ByHand]:
    """Two prompts of different lengths, and the second alone."""
    case = CASES[request.param]
    return request.param, ByHand(case, [["v3"], ["v2", "v4"]]), ByHand(case, [["v2", "v4"]])


def run(by_hand: ByHand, option: Option) -> Any:
    torch.manual_seed(0)
    arguments = option.arguments(by_hand)
    batch = {
        name: value for name, value in by_hand.batch.items() if not (name == "input_ids" and "inputs" in arguments)
    }
    base = {} if "generation_config" in arguments else GREEDY
    return by_hand.model.generate(**batch, **{**base, **arguments}), arguments


@pytest.fixture(scope="module")
def echo(design: tuple[str, ByHand, ByHand]) -> ByHand:
    """The second prompt, which ends with the words that stand before its placeholders."""
    return ByHand(CASES[design[0]], [["v2", "v4"]], echo=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("option", TABLE, ids=[f"{option.name}-{option.call[:40]}" for option in TABLE])
def test_every_cell(design: tuple[str, ByHand, ByHand], echo: ByHand, option: Option) -> None:
    name, both, one = design
    by_hand = echo if option.echo else one if option.alone else both
    if name in option.refused:
        with pytest.raises(ValueError, match=option.text) as caught:
            run(by_hand, option)
        named = [name for name in option.arguments(by_hand) if name in str(caught.value)]
        assert named, "the refusal names what was passed"
        assert any(word in str(caught.value) for word in ("use ", "leave ", "pass ", "put ", "end the prompt"))
        return
    output, arguments = run(by_hand, option)
    assert tokens_of(by_hand, output) == option.expected(by_hand)
    listener = arguments.get("streamer")
    if isinstance(listener, Listener):
        assert listener.has_ended
        assert listener.heard[-STEPS:] == plain(by_hand)[0]


def test_options_change_what_they_should(design: tuple[str, ByHand, ByHand]) -> None:
    """Control: what changes scores or searches is another answer somewhere, and the videos count."""
    name, both, _ = design
    before = plain(both)
    changed = [option.name for option in TABLE if name not in option.refused and not option.alone]
    same = {option.name for option in TABLE if option.name in changed and option.expected(both) == before}
    assert {"do_sample", "num_beams", "watermarking_config", "negative_prompt_ids", "custom_generate"} & same <= {
        "num_beams"
    }
    text = ByHand(both.case, [[], []])
    assert plain(text) != before


def test_the_table_has_every_option() -> None:
    known = set(GenerationConfig().to_dict()) - NO_OPTIONS
    known |= set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    assert known - {option.name for option in TABLE} == set()
    # Those that the options of other releases were called.
    assert {option.name for option in TABLE} - known == {"assistant_tokenizer", "trust_remote_code"}


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python tests/support/generation_page.py"


def test_what_is_refused_is_in_the_table() -> None:
    tried = {name: {option.name for option in TABLE if name in option.refused} for name in DESIGNS}
    for name, refusals in {**dict.fromkeys(ALL, COMMON), "iva": IVA, "linvt": LINVT}.items():
        assert set(refusals) <= tried[name]


def test_what_is_off_is_not_refused(design: tuple[str, ByHand, ByHand]) -> None:
    _, both, _ = design
    expected = plain(both)
    for value in (None, False):
        off = {option: value for option in both.model.refused_options if option != "assistant_model"}
        off.pop("assistant_tokenizer")
        off = {option: given for option, given in off.items() if value is None or option in ("use_mtp", "low_memory")}
        assert tokens_of(both, both.model.generate(**both.batch, **GREEDY, **off)) == expected
    for option, values in OFF.items():
        assert tokens_of(both, both.model.generate(**both.batch, **GREEDY, **{option: values[0]})) == expected


def test_a_models_own_configuration_counts(design: tuple[str, ByHand, ByHand]) -> None:
    """What gives wrong tokens is refused wherever it stands; what has no effect may stand in a saved configuration."""
    _, both, _ = design
    model, own = both.model, both.model.generation_config
    try:
        given = {"pad_token_id": 0, "suppress_tokens": own.suppress_tokens}
        model.generation_config = GenerationConfig(**given, penalty_alpha=0.6, top_k=4)
        with pytest.raises(ValueError, match="penalty_alpha"):
            model.generate(**both.batch, **GREEDY)
        with pytest.raises(ValueError, match="penalty_alpha"):
            model.generate(both.batch["input_ids"], GenerationConfig(penalty_alpha=0.6, top_k=4))
        model.generation_config = GenerationConfig(**given, forced_bos_token_id=7)
        assert tokens_of(both, model.generate(**both.batch, **GREEDY)) == plain(both)
    finally:
        model.generation_config = own


def test_continuous_batching_is_refused(design: tuple[str, ByHand, ByHand]) -> None:
    _, both, _ = design
    for call in (
        both.model.generate_batch,
        both.model.init_continuous_batching,
        both.model.continuous_batching_context_manager,
    ):
        with pytest.raises(ValueError, match=r"Continuous batching takes only token ids.*pass a padded batch"):
            call(inputs=both.batch["input_ids"].tolist())


def test_a_text_model_is_no_assistant(design: tuple[str, ByHand, ByHand]) -> None:
    _, _, one = design
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    assistant = LlamaForCausalLM(LlamaConfig(vocab_size=120, **sizes))
    with pytest.raises(ValueError, match="assistant_model"):
        one.model.generate(**one.batch, **GREEDY, assistant_model=assistant)


def test_loops_from_a_folder(design: tuple[str, ByHand, ByHand], tmp_path: Path) -> None:
    _, both, _ = design
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(
        "def generate(model, max_new_tokens=None, **kwargs):\n"
        "    given = {name: value for name, value in kwargs.items() if value is not None}\n"
        "    return model.generate(**given, max_new_tokens=max_new_tokens - 1)\n"
    )
    loop = {"custom_generate": str(tmp_path), **GREEDY}
    found = both.model.generate(**both.batch, **loop, trust_remote_code=True)
    assert tokens_of(both, found) == both.write(steps=STEPS - 1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations(design: tuple[str, ByHand, ByHand], attention: str) -> None:
    _, both, _ = design
    model = both.case.make_model(attn_implementation=attention)
    assert tokens_of(both, model.generate(**both.batch, **GREEDY)) == plain(both)
    assert model.config.get_text_config()._attn_implementation == attention
