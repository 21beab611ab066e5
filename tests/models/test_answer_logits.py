"""The loss of answers alone: without the logits of the visual tokens, and equal to the loss with all of them."""

from typing import Any

import pytest
import torch
from every_design import DESIGNS, every_design
from factory import DesignCase, with_labels

SPECS = [["v4", "i"], ["v2"]]


def gradients(model: Any, **inputs: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs = model(**inputs, use_cache=False)
    outputs.loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return outputs, found


@every_design
@pytest.mark.parametrize("extra", [{}, {"num_items_in_batch": 7}], ids=["mean", "sum"])
def test_loss_and_gradients_are_those_of_all_logits(case: DesignCase, extra: dict[str, Any]) -> None:
    model, batch = case.make_model().train(), with_labels(case.make_batch(SPECS))
    widths: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[:-1].numel()))
    whole, expected = gradients(model, **batch, **extra)
    short, found = gradients(model, **batch, **extra, answer_logits_only=True)
    count = int((batch["labels"][:, 1:] != -100).sum())
    assert widths == [batch["labels"].numel(), count]
    assert short.logits.shape == (1, count, whole.logits.shape[-1])
    torch.testing.assert_close(short.loss, whole.loss, atol=1e-5, rtol=1e-5)
    assert torch.equal(short.logits[0].argmax(-1), whole.logits[:, :-1][batch["labels"][:, 1:] != -100].argmax(-1))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


@every_design
def test_kept_logits_are_enough_if_all_labels_are_there(case: DesignCase) -> None:
    model, batch = case.make_model(), case.make_batch([["v2"]])
    labels = batch["input_ids"].clone()
    labels[:, :-3] = -100
    with torch.no_grad():
        expected = model(**batch, labels=labels).loss
        for kept in (4, 6, torch.arange(labels.shape[1] - 5, labels.shape[1])):
            torch.testing.assert_close(model(**batch, labels=labels, logits_to_keep=kept).loss, expected)
        with pytest.raises(ValueError, match="labels count at positions whose logits are not kept"):
            model(**batch, labels=labels, logits_to_keep=3)


def test_what_makes_no_sense_is_refused() -> None:
    model, batch = DESIGNS[0].make_model(), with_labels(DESIGNS[0].make_batch([["v2"]]))
    with pytest.raises(ValueError, match="answer_logits_only needs labels"):
        model(**batch, answer_logits_only=True, logits_to_keep=4)
    del batch["labels"]
    with pytest.raises(ValueError, match="answer_logits_only needs labels"):
        model(**batch, answer_logits_only=True)
