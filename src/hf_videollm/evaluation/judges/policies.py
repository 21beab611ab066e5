"""Call policies: with which model and sampling a judge is asked, how often, and how its replies are read and counted.

The judge text is the same in several evaluations; what differs, and moves the scores, is the policy. Each preset is
what one origin does. Where an origin asks without end until every item has a readable reply, the number of attempts is
bounded here, and what is left is a counted failure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .parsing import ParseRule

__all__ = ["DEFAULT_POLICY", "POLICIES", "Aggregation", "JudgePolicy", "get_policy"]

# Who is counted:
#   judged   accuracy = yes / (yes + no), score = mean over the items that have one; failures are left out
#   all      accuracy = yes / all, score = sum / all; a failure is a no with the score 0
Aggregation = Literal["judged", "all"]
# For the origins that repeat until every item is done.
MANY_ATTEMPTS = 20
SHORT_PREDICTION = 50


@dataclass(frozen=True)
class JudgePolicy:
    """How a judge is asked and understood.

    Attributes:
        name: name in `POLICIES`; part of the key under which replies are cached.
        model: the judge of the origin, as its evaluation names it; `None` if the user has to choose one. Most of the
            papers' models are no longer served, so a run may name another one, which its results then say.
        temperature: sampling temperature; `None` leaves it to the endpoint.
        top_p: nucleus sampling; `None` leaves it to the endpoint.
        max_tokens: longest reply; `None` leaves it to the endpoint.
        attempts: how many replies are asked for until one can be read. Requests that got no reply at all (rate limits,
            broken connections) are repeated by the backend and are not attempts. A judge that would only repeat itself
            is asked once.
        ask_again_when: `unreadable`: when a reply cannot be read; `empty`: only when it is empty.
        short_prediction: every second attempt at a yes-or-no judgement sends only so many characters of the
            prediction.
        parse: how strictly replies are read.
        aggregation: what failures count as.
        note: where it comes from, and what is not known about it.
    """

    name: str
    model: str | None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    attempts: int = 1
    ask_again_when: Literal["unreadable", "empty"] = "unreadable"
    short_prediction: int | None = None
    parse: ParseRule = "literal"
    aggregation: Aggregation = "judged"
    note: str = ""

    def sampling(self) -> dict[str, Any]:
        """The arguments of `Judge.complete`."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}

    def to_dict(self) -> dict[str, Any]:
        """All fields, for the record of a run."""
        return asdict(self)


_VIDEO_CHATGPT = JudgePolicy(
    "video_chatgpt",
    model="gpt-3.5-turbo",
    attempts=MANY_ATTEMPTS,
    note="Video-ChatGPT; the original repeats without end until every item has a readable reply.",
)
_VIDEOLLAMA2 = JudgePolicy(
    "videollama2",
    model="gpt-3.5-turbo-0613",
    temperature=0.7,
    top_p=0.95,
    max_tokens=800,
    attempts=MANY_ATTEMPTS,
    short_prediction=SHORT_PREDICTION,
    note=(
        "VideoLLaMA2, through Azure; each pass tries the whole prediction and then its first 50 characters, and the "
        "original repeats passes without end."
    ),
)

POLICIES: dict[str, JudgePolicy] = {
    policy.name: policy
    for policy in (
        JudgePolicy(
            "robust",
            model=None,
            temperature=0.0,
            attempts=5,
            parse="robust",
            note="This package's default: Video-ChatGPT's counting, without sampling, with a tolerant reader.",
        ),
        _VIDEO_CHATGPT,
        JudgePolicy(
            "pllava",
            model="gpt-3.5-turbo-0125",
            parse="strict",
            aggregation="all",
            note="PLLaVA; scores stay fractional.",
        ),
        _VIDEOLLAMA2,
        replace(
            _VIDEOLLAMA2,
            name="videollama2_av",
            attempts=1,
            short_prediction=None,
            parse="exact",
            aggregation="all",
            note=(
                "VideoLLaMA2's branch audio_visual. Its handler of failed calls crashes; that a failure is a no with "
                "the score 0 is our reading of what was meant."
            ),
        ),
        JudgePolicy(
            "lmms_eval",
            model="gpt-4o-2024-11-20",
            temperature=0.0,
            max_tokens=64,
            attempts=5,
            ask_again_when="empty",
            parse="braces",
            aggregation="all",
            note="lmms-eval 0.7.2, which takes another model from its environment variable MODEL_VERSION.",
        ),
        replace(
            _VIDEO_CHATGPT,
            name="iva",
            note=(
                "IVA names gpt-3.5-turbo, the count of yes and the average of the scores, and nothing else: Video-"
                "ChatGPT's policy is used."
            ),
        ),
        replace(
            _VIDEO_CHATGPT,
            name="ftfv",
            note="FTFV does not say how its judge was called: Video-ChatGPT's policy is used.",
        ),
    )
}
DEFAULT_POLICY = "robust"


def get_policy(name: str = DEFAULT_POLICY) -> JudgePolicy:
    """The preset of this name.

    Raises:
        ValueError: there is no such preset; the most similar names are told.

    Example:
        >>> get_policy("pllava").attempts
        1
    """
    if name not in POLICIES:
        from ...models.video_llm_option_names import did_you_mean  # loads transformers

        raise ValueError(f"There is no judge policy {name!r}: {did_you_mean(name, POLICIES)}")
    return POLICIES[name]
