"""The settings in which runs differ: two numbers are compared only as far as these allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["differing_settings", "how_text", "settings_of"]

# What differs with every model, or is said elsewhere.
LEFT_OUT = ("task", "model.path")
# What a reader of a number has to know first, in words.
HOW = {
    "prompt_style": "prompt style",
    "scoring.choice_rule": "choice rule",
    "scoring.fallback": "fallback",
    "scoring.match_rule": "match rule",
    "scoring.references": "references",
    "scoring.judge": "judge",
    "scoring.judge_model": "judge model",
    "scoring.judge_policy": "judge policy",
    "frames": "frames",
}
# What differs between any two models, and says no more than that they are two.
OF_MODELS = ("model.revision", "chat_template")


def settings_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """All that the numbers of a result depend on, in one flat dictionary, e.g. `processor_options.num_frames`."""
    frames = result.get("frames") or {}
    values: dict[str, Any] = {
        **result["settings"],
        "frames": _range(frames.get("fewest"), frames.get("most")),
        "scoring": dict(result["scoring"]),
        "items": result["counts"]["items"],
    }
    return {name: value for name, value in _flat(values).items() if name not in LEFT_OUT}


def differing_settings(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Name of a setting -> its value in each result, for those in which the results differ.

    A setting that a result does not have is None there: its default.
    """
    all_settings = [settings_of(result) for result in results]
    if len({str(result["model"]["model"]) for result in results}) > 1:
        all_settings = [{**settings, **dict.fromkeys(OF_MODELS)} for settings in all_settings]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    values = {name: [settings.get(name) for settings in all_settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def how_text(results: Sequence[Mapping[str, Any]]) -> str:
    """How the items were asked and scored, as far as that is the same in all results; empty if nothing is known.

    A judge of words is no judge of a paper, so nobody may have to look for it.
    """
    found = [settings_of(result) for result in results]
    same = [
        f"{words} {found[0][name]}"
        for name, words in HOW.items()
        if found[0].get(name) not in (None, "none") and all(values.get(name) == found[0][name] for values in found)
    ]
    return f"Asked and scored with: {', '.join(same)}." if same else ""


def _range(fewest: int | None, most: int | None) -> str | None:
    """Frames of the videos.

    Example:
        >>> _range(8, 8), _range(4, 16)
        ('8', '4 to 16')
    """
    if fewest is None:
        return None
    return str(fewest) if fewest == most else f"{fewest} to {most}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
