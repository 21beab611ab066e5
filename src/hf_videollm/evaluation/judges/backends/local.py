"""A language model of transformers as the judge, asked through its chat template, one question at a time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from typing import Any

from ....known_models import find_model
from ..errors import JudgeError, JudgeStopError, NoReplyError
from ..items import JudgeItem
from ..judge_text import ChatMessage
from .protocol import Judge

__all__ = ["LocalJudge"]

MAX_TOKENS = 256


class LocalJudge(Judge):
    """Asks a local causal language model.

    A model that samples draws from a seed made of the messages and the number of the attempt. So its replies depend
    neither on the order of the items nor on the number of threads.

    Args:
        source: folder or Hub id of the model.
        dtype: as in `from_pretrained`; `"auto"` takes the one in the checkpoint.
        device: a torch device; the first GPU if there is one, by default.

    Raises:
        JudgeError: the model cannot be loaded as a chat model.
        OSError: the model cannot be found.
    """

    kind = "local"

    def __init__(self, source: str | os.PathLike[str], *, dtype: str = "auto", device: str | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = os.fspath(source)
        folder = find_model(source)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        except ValueError as error:
            from ....models.errors import one_line

            reason = one_line(error).split(". ")[0]
            raise JudgeError(f"{self.model} is no causal language model of transformers ({reason}).") from error
        if not self._tokenizer.chat_template:
            raise JudgeError(f"{self.model} has no chat template: take a model that was trained to chat.")
        self._network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        # One question at a time: threads would only share the same processor.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LocalJudge({self.model!r})"

    def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        item: JudgeItem | None = None,
        attempt: int = 1,
    ) -> str:
        """The reply to the messages; see `Judge.complete`. At most 256 tokens unless `max_tokens` says otherwise.

        Raises:
            NoReplyError: the messages are longer than the model's context.
            JudgeStopError: the chat template refuses messages of this form, e.g. a system message.
        """
        import torch

        from ....models.configuration_video_llm import context_length

        max_tokens = max_tokens or MAX_TOKENS
        inputs = self._encode(messages).to(self._network.device)
        length = inputs["input_ids"].shape[1]
        context = context_length(self._network.config)
        if context is not None and length + max_tokens > context:
            raise NoReplyError(
                f"{self.model}: a prompt of {length} tokens and a reply of {max_tokens} do not fit into {context}"
            )
        place = self._network.device
        # The state of random numbers that others draw from is left as it was.
        forked = torch.random.fork_rng(devices=[place] if place.type == "cuda" else [])
        with self._lock, torch.inference_mode(), forked:
            torch.manual_seed(_seed(messages, attempt))
            output = self._network.generate(
                **inputs,
                max_new_tokens=max_tokens,
                pad_token_id=self._pad_token_id(),
                **_sampling(temperature, top_p),
            )
        reply: str = self._tokenizer.decode(output[0, length:], skip_special_tokens=True)
        return reply.strip()

    def repeats_itself(self, temperature: float | None) -> bool:
        """Without sampling."""
        return temperature == 0

    def _encode(self, messages: Sequence[ChatMessage]) -> Any:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        except TemplateError as error:
            raise JudgeStopError(
                f"The chat template of {self.model} refuses the judge's messages ({error}): take another model."
            ) from error

    def _pad_token_id(self) -> int | None:
        """Nothing is padded in a batch of one, but generate wants to know the token."""
        pad = self._tokenizer.pad_token_id
        return self._tokenizer.eos_token_id if pad is None else pad


def _sampling(temperature: float | None, top_p: float | None) -> dict[str, Any]:
    """Arguments of generate; none of them if the model's own settings are to hold."""
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    given = {"temperature": temperature, "top_p": top_p}
    given = {name: value for name, value in given.items() if value is not None}
    # The API that the policies speak of has no top-k.
    return {"do_sample": True, "top_k": 0, **given} if given else {}


def _seed(messages: Sequence[ChatMessage], attempt: int) -> int:
    text = json.dumps([list(messages), attempt], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big")
