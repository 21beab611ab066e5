"""Options of commands that let a judge compare answers: who judges, how it is asked, and how much it may be used."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluation.judges.policies import DEFAULT_POLICY, POLICIES

if TYPE_CHECKING:
    from ..evaluation.judges.backends.budget import Budget
    from ..evaluation.judges.backends.protocol import Judge
    from ..evaluation.judges.cache import ReplyCache
    from ..evaluation.judges.policies import JudgePolicy

JUDGES = ("openai", "local", "rule")

JudgeKind = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="openai: an endpoint with OpenAI's API; local: a model of transformers; rule: compares words, offline.",
    ),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge-model", help="Model at the endpoint, or folder or Hub id (local); the policy's own by default."
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option("--judge-url", help="Endpoint up to /v1; OPENAI_BASE_URL or OpenAI's own by default."),
]
JudgeKeyVariable = Annotated[
    str | None,
    typer.Option("--judge-key-variable", help="Environment variable with the key; OPENAI_API_KEY by default."),
]
JudgePolicyName = Annotated[
    str | None,
    typer.Option(
        "--judge-policy",
        help=f"How the judge is asked and read: {', '.join(POLICIES)}; {DEFAULT_POLICY} by default.",
    ),
]
JudgeConcurrency = Annotated[
    int | None, typer.Option("--judge-concurrency", min=1, help="Requests at the same time; 8 by default.")
]
JudgeRate = Annotated[float | None, typer.Option("--judge-rate", help="Most requests for each minute.")]
JudgeTimeout = Annotated[
    float | None, typer.Option("--judge-timeout", help="Most seconds for a whole reply; 120 by default.")
]
JudgeBudget = Annotated[int | None, typer.Option("--judge-budget", min=0, help="Most requests in all.")]
JudgeTokenBudget = Annotated[
    int | None, typer.Option("--judge-token-budget", min=0, help="Most tokens in all, of prompts and replies.")
]
JudgeCache = Annotated[
    Path | None, typer.Option("--judge-cache", help="File that keeps the replies, so that none is asked for twice.")
]
# Which kinds of judge know which options.
_OF_ENDPOINTS = (
    "judge_url",
    "judge_key_variable",
    "judge_rate",
    "judge_timeout",
    "judge_budget",
    "judge_token_budget",
    "judge_concurrency",
)
_FOREIGN: dict[str, tuple[str, ...]] = {
    "openai": (),
    "local": _OF_ENDPOINTS,
    "rule": (*_OF_ENDPOINTS, "judge_model", "judge_cache"),
}
DEFAULT_CONCURRENCY = 8


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges and how. Every field is an option of the command line; see `spread_options`."""

    judge: JudgeKind = None
    judge_model: JudgeModel = None
    judge_url: JudgeUrl = None
    judge_key_variable: JudgeKeyVariable = None
    judge_policy: JudgePolicyName = None
    judge_concurrency: JudgeConcurrency = None
    judge_rate: JudgeRate = None
    judge_timeout: JudgeTimeout = None
    judge_budget: JudgeBudget = None
    judge_token_budget: JudgeTokenBudget = None
    judge_cache: JudgeCache = None

    def policy(self, default: str = DEFAULT_POLICY) -> "JudgePolicy":
        """The policy.

        Args:
            default: name of the one that holds when none was given.

        Raises:
            ValueError: there is no policy of this name.
        """
        from ..evaluation.judges.policies import get_policy

        return get_policy(self.judge_policy or default)

    def concurrency(self) -> int:
        """Requests at the same time; 1 for judges that answer one question at a time."""
        return (self.judge_concurrency or DEFAULT_CONCURRENCY) if self.judge == "openai" else 1

    def make(self, policy: "JudgePolicy | None" = None) -> "Judge":
        """The judge, ready to be asked: what is wrong is found out before anything runs.

        Args:
            policy: its model is taken when none was given; `self.policy()` by default.

        Raises:
            ValueError: there is no such judge, an option does not belong to it, or model or key are missing.
        """
        self.check()
        policy = policy or self.policy()
        if self.judge == "rule":
            from ..evaluation.judges.backends.rule import RuleJudge

            return RuleJudge()
        if self.judge == "local":
            if self.judge_model is None:
                raise ValueError("judge=local needs a model: pass judge_model with a folder or Hub id.")
            return self._local
        return self._endpoint(policy)

    def check(self) -> None:
        """Refuse what cannot be, without making a judge.

        Raises:
            ValueError: there is no such judge, an option does not belong to it, or there is no such policy.
        """
        if self.judge not in JUDGES:
            given = "judge must be given" if self.judge is None else f"judge={self.judge} is none"
            raise ValueError(f"{given}: take {', '.join(JUDGES[:-1])} or {JUDGES[-1]}.")
        for name in _FOREIGN[self.judge]:
            if getattr(self, name) is not None:
                raise ValueError(f"judge={self.judge} has no use for `{name}`: leave it out.")
        for name in ("judge_rate", "judge_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be a number above 0.")
        self.policy()

    @contextlib.contextmanager
    def open_cache(self) -> "Iterator[ReplyCache | None]":
        """The cache while the block lasts; `None` if no file was given. Lines that were dropped are told on stderr."""
        if self.judge_cache is None:
            yield None
            return
        from ..evaluation.judges.cache import ReplyCache
        from .output import note

        with ReplyCache(self.judge_cache) as cache:
            if cache.dropped:
                lines = ", ".join(map(str, cache.dropped))
                note(f"note: {cache.path}: line {lines} was written half and is left out.")
            yield cache

    # One of each for all policies of a command: a budget is for all of them, and a model is loaded once.

    @cached_property
    def _budget(self) -> "Budget":
        from ..evaluation.judges.backends.budget import Budget

        return Budget(self.judge_budget, self.judge_token_budget)

    @cached_property
    def _local(self) -> "Judge":
        from ..evaluation.judges.backends.local import LocalJudge

        return LocalJudge(self.judge_model or "")

    def _endpoint(self, policy: "JudgePolicy") -> "Judge":
        from ..evaluation.judges.backends.openai import OpenAIJudge

        model = self.judge_model or policy.model
        if model is None:
            raise ValueError(f"The policy {policy.name} names no model: pass judge_model with one of the endpoint's.")
        given: dict[str, Any] = {"key_variable": self.judge_key_variable, "timeout": self.judge_timeout}
        return OpenAIJudge(
            model,
            base_url=self.judge_url,
            requests_per_minute=self.judge_rate,
            budget=self._budget,
            **{name: value for name, value in given.items() if value is not None},
        )


__all__ = ["JUDGES", "JudgeOptions"]
