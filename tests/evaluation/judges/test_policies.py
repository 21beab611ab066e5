"""The presets say what each origin does, and cannot be changed by accident."""

from dataclasses import FrozenInstanceError

import pytest

from hf_videollm.evaluation.judges.policies import DEFAULT_POLICY, POLICIES, get_policy

# name: model, temperature, top_p, max_tokens, attempts (None: many), reading, what failures count as
TABLE = {
    "video_chatgpt": ("gpt-3.5-turbo", None, None, None, None, "literal", "judged"),
    "pllava": ("gpt-3.5-turbo-0125", None, None, None, 1, "strict", "all"),
    "videollama2": ("gpt-3.5-turbo-0613", 0.7, 0.95, 800, None, "literal", "judged"),
    "videollama2_av": ("gpt-3.5-turbo-0613", 0.7, 0.95, 800, 1, "exact", "all"),
    "lmms_eval": ("gpt-4o-2024-11-20", 0.0, None, 64, 5, "braces", "all"),
    "iva": ("gpt-3.5-turbo", None, None, None, None, "literal", "judged"),
    "ftfv": ("gpt-3.5-turbo", None, None, None, None, "literal", "judged"),
    "robust": (None, 0.0, None, None, 5, "robust", "judged"),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_preset(name: str) -> None:
    policy = get_policy(name)
    attempts = None if policy.attempts == 20 else policy.attempts
    sampling = (policy.temperature, policy.top_p, policy.max_tokens)
    assert (policy.model, *sampling, attempts, policy.parse, policy.aggregation) == TABLE[name]
    assert policy.name == name
    assert policy.note
    assert policy.to_dict()["model"] == policy.model
    assert policy.sampling() == dict(zip(("temperature", "top_p", "max_tokens"), sampling, strict=True))


def test_only_videollama2_shortens_predictions() -> None:
    assert {name: policy.short_prediction for name, policy in POLICIES.items() if policy.short_prediction} == {
        "videollama2": 50
    }


def test_what_iva_and_ftfv_do_not_say_is_said_to_be_missing() -> None:
    for name in ("iva", "ftfv"):
        assert "ChatGPT's policy is used" in get_policy(name).note


def test_presets_are_complete_and_frozen() -> None:
    assert set(POLICIES) == set(TABLE)
    assert get_policy().name == DEFAULT_POLICY == "robust"
    with pytest.raises(FrozenInstanceError):
        get_policy().attempts = 2  # type: ignore[misc]


def test_an_unknown_preset_is_named_with_the_most_similar() -> None:
    with pytest.raises(ValueError, match="no judge policy 'plava': did you mean pllava"):
        get_policy("plava")
