"""The language-model head with its logits and loss, the scaling of logits in some families, and headless models."""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import torch_compilable_check

from .transformers_compat import CACHE_NAME, cache_of
from .video_llm_label_check import refuse_wrong_labels
from .video_llm_outputs import ENCODER_FIELDS, VideoLlmCausalLMOutputWithPast

# These three tables map the type of a language model to the configuration field by which its logits are multiplied
# (`FACTORS`), divided (`DIVISORS`) or bounded with tanh (`BOUNDS`). They repeat what the forward of each family in
# transformers does. The name of a field is not enough: Granite divides by `logits_scaling`, HyperCLOVA X multiplies by
# it, and LLaVA ignores the field of the Gemma model inside it.
FACTORS: dict[str, str] = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "cohere2_moe": "logit_scale",
    "cohere_compass": "logit_scale",
    "cohere_compass_text": "logit_scale",
    "falcon_h1": "lm_head_multiplier",
    "hyperclovax": "logits_scaling",
    "hyperclovax_vision_v2": "logits_scaling",
    "muse_glimmer": "output_multiplier",
    "muse_spark": "output_multiplier",
}
DIVISORS: dict[str, str] = {
    "granite": "logits_scaling",
    "granite4_vision": "logits_scaling",
    "granite_docling": "logits_scaling",
    "granite_swa": "logits_scaling",
    "granitemoe": "logits_scaling",
    "granitemoe_swa": "logits_scaling",
    "granitemoehybrid": "logits_scaling",
    "granitemoeshared": "logits_scaling",
    # MiniCPM3 divides the input of its head. That is the same as dividing the logits, because its head has no bias.
    "minicpm3": "logits_scaling",
}
BOUNDS: dict[str, str] = {
    "beam": "final_logit_softcapping",
    "gemma2": "final_logit_softcapping",
    "gemma3_text": "final_logit_softcapping",
    "gemma3n_text": "final_logit_softcapping",
    "gemma4": "final_logit_softcapping",
    "gemma4_text": "final_logit_softcapping",
    "gemma4_unified": "final_logit_softcapping",
    "gemma4_unified_text": "final_logit_softcapping",
    "muse_glimmer": "final_logit_softcapping",
    "muse_spark": "final_logit_softcapping",
    "nanochat": "final_logit_softcapping",
    "paligemma": "final_logit_softcapping",
    "recurrent_gemma": "logits_soft_cap",
    "vaultgemma": "final_logit_softcapping",
}
# Types of models that have a field with such a name, but do not use it in their forward.
PLAIN = ("mpt",)
# Names of fields that probably change the logits.
LOGIT_FIELD = re.compile(
    r"logits?_(scal\w+|mup\w*|soft_?cap\w*)|(final|output)_logits?_soft_?cap\w*|(lm_head|output)_multiplier"
)


class HeadlessMixin:
    """For base models, which have no head. In a list of base classes, it must come before `PreTrainedModel`."""

    # A headless model can be loaded from a checkpoint with a head. Any other unexpected tensor is an error.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def generate(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to generate: a model without a head has no logits.

        Raises:
            TypeError: always; the message names the Auto class to use instead.
        """
        raise TypeError(
            f"{type(self).__name__} has no language-model head and cannot generate. Load the checkpoint with "
            "AutoModelForImageTextToText.from_pretrained(...) instead of AutoModel."
        )


class LanguageHeadMixin:
    """For models with a head, whose base model is `model`. `__init__` calls `make_head` after it has made `model`."""

    config: Any
    model: Any
    lm_head: nn.Module
    register_forward_pre_hook: Callable[..., Any]
    loss_function: Callable[..., torch.Tensor]
    # Class of what `forward` returns.
    output_class: ClassVar[type[VideoLlmCausalLMOutputWithPast]] = VideoLlmCausalLMOutputWithPast

    def make_head(self, text_config: Any, bias: bool = False) -> None:
        """Add the head, and tell transformers which weight it shares with the embedding if the two are tied.

        Args:
            text_config: configuration of the language model.
            bias: whether the head has a bias.
        """
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=bias)
        # Each family of language models names its embedding differently, so its name is looked up in the model.
        embedding = self.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.register_forward_pre_hook(refuse_wrong_labels, with_kwargs=True)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def head_outputs(
        self,
        outputs: BaseModelOutputWithPast,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        model_type: str | None = None,
        answer_logits_only: bool = False,
        **loss_options: Any,
    ) -> VideoLlmCausalLMOutputWithPast:
        """Next-token logits, and the loss when there are labels.

        Args:
            outputs: the outputs of the base model.
            labels: `(batch, length)`, -100 at positions that do not count for the loss.
            logits_to_keep: compute logits of the last n positions only (0: all), or of the given positions.
            model_type: see `scale_logits`.
            answer_logits_only: compute logits only of the positions that count for the loss: `(1, positions,
                vocab_size)`, those of the first row first.
            loss_options: further arguments of `loss_function`.

        Raises:
            ValueError: `answer_logits_only` without labels or with `logits_to_keep`; or labels count at positions whose
                logits are not kept.
        """
        text_config, states = self.config.text_config, outputs.last_hidden_state
        if answer_logits_only and (labels is None or not _keeps_all(logits_to_keep)):
            raise ValueError("answer_logits_only needs labels, and no logits_to_keep.")
        if labels is not None and (answer_logits_only or not _keeps_all(logits_to_keep)):
            targets = loss_options.pop("shift_labels", None)
            targets = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:] if targets is None else targets
            if answer_logits_only:
                counts = targets != -100
                states, targets = states[counts.to(states.device)].unsqueeze(0), targets[counts].unsqueeze(0)
            else:
                targets = _kept_targets(targets, logits_to_keep)
            loss_options["shift_labels"] = targets
        if not _keeps_all(logits_to_keep):
            states = states[:, _positions(logits_to_keep)]
        logits = scale_logits(self.lm_head(states), text_config, model_type)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=text_config.vocab_size, **loss_options)
        return self.output_class(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: cache_of(outputs)},
            # In LinVT, the image-LLM returns an output of its own class. Some of these fields are missing there, and
            # others are properties that warn of their deprecation. `get` avoids both.
            **{name: outputs.get(name) for name in ENCODER_FIELDS},
        )


def _keeps_all(logits_to_keep: int | torch.Tensor) -> bool:
    return isinstance(logits_to_keep, int) and logits_to_keep == 0


def _positions(logits_to_keep: int | torch.Tensor) -> slice | torch.Tensor:
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


def _kept_targets(targets: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The next tokens, `(batch, length)`, -100 where they do not count, of the positions whose logits are kept.

    Raises:
        ValueError: other positions count for the loss, too.
    """
    kept = targets[:, _positions(logits_to_keep)].contiguous()
    torch_compilable_check(
        (kept != -100).sum() == (targets != -100).sum(),
        "labels count at positions whose logits are not kept: leave logits_to_keep out, or use answer_logits_only.",
    )
    return kept


def scale_logits(logits: torch.Tensor, text_config: Any, model_type: str | None = None) -> torch.Tensor:
    """Multiply, divide and bound logits, in this order, if the family of the language model does so after its head.

    Args:
        logits: `(batch, length, vocab_size)`.
        text_config: configuration of the language model, which holds the factor, the divisor and the bound.
        model_type: type of the model that the head belongs to; the type of the language model by default.
    """
    family = model_type or text_config.model_type
    if (factor := _number(text_config, FACTORS.get(family))) is not None:
        logits = logits * factor
    if (divisor := _number(text_config, DIVISORS.get(family))) is not None:
        logits = logits / divisor
    if (bound := _number(text_config, BOUNDS.get(family))) is not None:
        logits = (logits / bound).tanh() * bound
    return logits


def unknown_logit_field(text_config: Any) -> str | None:
    """Name of a configuration field that probably changes the logits, but is in none of the tables; else `None`."""
    if text_config.model_type in {*FACTORS, *DIVISORS, *BOUNDS, *PLAIN}:
        return None
    fields = (name for name in text_config.to_dict() if LOGIT_FIELD.fullmatch(name))
    return next((name for name in fields if _number(text_config, name) not in (None, 1)), None)


def _number(config: Any, name: str | None) -> float | int | None:
    value = None if name is None else getattr(config, name, None)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


__all__ = ["HeadlessMixin", "LanguageHeadMixin", "scale_logits", "unknown_logit_field"]
