"""What this package needs of lmms-eval, in its forms: the base class, the manifest, and requests."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Document = Mapping[str, Any]
OURS = "hf_videollm.evaluation.lmms_eval"


class Hook:
    """Takes what a response cache would keep."""

    def __init__(self) -> None:
        self.partial: list[tuple[str, Any, Any]] = []

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        self.partial.append((kind, request, answer))


class Base:
    """`lmms_eval.api.model.lmms`, as far as a model sees it."""

    is_simple = True

    def __init__(self) -> None:
        self._rank = 0
        self._world_size = 1
        self.cache_hook = Hook()
        self.task_dict: dict[str, Any] = {}
        self.is_clean = False

    def clean(self) -> None:
        self.is_clean = True


@dataclass(frozen=True)
class Result:
    """`GenerationResult`: what it holds reaches the task as it is."""

    text: Any


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our module on the stub; the real lmms-eval is back when the test ends."""
    contents: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"GenerationResult": Result},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    module = import_module(OURS)
    monkeypatch.setitem(sys.modules, OURS, module)
    return module


def chat(document_id: int, messages: Callable[..., Any], **gen_kwargs: Any) -> Any:
    """The request of a chat task, with its six parts."""
    return SimpleNamespace(args=("context", messages, gen_kwargs, document_id, "clips", "test"))


def simple(document_id: int, context: str, visual: Callable[[Document], Sequence[Any]], **gen_kwargs: Any) -> Any:
    """The request of a simple task."""
    return SimpleNamespace(args=(context, gen_kwargs, visual, document_id, "clips", "test"))


def likelihood(document_id: int, context: str, continuation: Any, visual: Callable[[Document], Sequence[Any]]) -> Any:
    """The request of a task that compares likelihoods."""
    return SimpleNamespace(args=(context, continuation, visual, document_id, "clips", "test"))


def messages_of(document: Document) -> list[dict[str, Any]]:
    """A video, perhaps a part of it, and a question."""
    video = {"type": "video", "url": document["video"]}
    video |= {name: document[name] for name in ("start_time", "end_time") if name in document}
    return [{"role": "user", "content": [video, {"type": "text", "text": document["question"]}]}]


def visual_of(document: Document) -> list[Any]:
    return [document["video"]]
