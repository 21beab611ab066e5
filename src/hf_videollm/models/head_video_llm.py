"""The language-model head over a base model, what follows it, and where transformers finds the embeddings of both."""

from typing import Any

import torch
from torch import nn


class LanguageHeadMixin:
    """To be put before a model whose base model is `model`; `make_head` belongs behind it in `__init__`."""

    model: Any
    lm_head: nn.Module

    def make_head(self, text_config: Any, bias: bool = False) -> None:
        """Add the head, and say which weight it shares where embeddings are tied.

        Args:
            text_config: of the language model.
            bias: whether the head has one.
        """
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=bias)
        # Language models differ in the name of their embedding, so the tie is looked up instead of written down.
        embedding = self.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings


def scale_logits(logits: torch.Tensor, text_config: Any) -> torch.Tensor:
    """What some language models do behind their head: Cohere multiplies, Granite divides, Gemma bounds.

    Args:
        logits: `(batch, length, vocab_size)`.
        text_config: of the language model.
    """
    if (factor := getattr(text_config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (divisor := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (bound := getattr(text_config, "final_logit_softcapping", None)) is not None:
        logits = (logits / bound).tanh() * bound
    return logits


__all__ = ["LanguageHeadMixin", "scale_logits"]
