"""TRL's `SFTTrainer` with a learning rate of its own for each part of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction
from trl import SFTTrainer

from ..models.media_dataset_columns import without_decoding
from .augmenting import Augmenter
from .contrastive import contrastive_of_batch, video_vectors
from .generated_answers import answer_rows, exact_match
from .precision import Float32Mixin
from .recipe_contrastive import Contrastive
from .saving import SavingMixin
from .sharding import shard_by_layers
from .trainable import check_rate_patterns, plain_name

__all__ = ["PartwiseSFTTrainer", "learning_rate_of", "plain_name"]


class PartwiseSFTTrainer(SavingMixin, Float32Mixin, SFTTrainer):
    """A trainer in which patterns of parameter names have learning rates of their own.

    Parameters that no pattern matches have the learning rate of the arguments. The schedule scales all rates alike.
    """

    def __init__(
        self,
        *args: Any,
        learning_rates: Mapping[str, float] | None = None,
        generate: Mapping[str, Any] | None = None,
        compute_answer_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        contrastive: Contrastive | None = None,
        augmenter: Augmenter | None = None,
        train_collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Args:
        learning_rates: maps regular expressions to learning rates. For each parameter, the first match counts.
        generate: options of `model.generate`: in an evaluation, the model also answers the rows. None: it does not.
        compute_answer_metrics: gets the answers (`predictions`) and those of the rows (`label_ids`).
        contrastive: settings of a loss between videos and answers, which is added in training.
        augmenter: that of the collator; it is off in evaluations.
        train_collator: makes the batches of the training; `data_collator` by default. Evaluations never use it.
        kwargs: as in TRL. `Video` and `Audio` columns of datasets are not decoded, because the processor reads files.

        Raises:
            ValueError: a pattern matches no trainable parameter.
        """
        datasets = ("train_dataset", "eval_dataset")
        kwargs.update({name: without_decoding(kwargs[name]) for name in datasets if name in kwargs})
        super().__init__(*args, **kwargs)
        shard_by_layers(self)
        self.generate_options, self.compute_answer_metrics = generate, compute_answer_metrics
        self.contrastive, self.augmenter = contrastive, augmenter
        self.train_collator = train_collator
        self._contrastive_losses: list[float] = []
        # Whether a run was resumed after its last step, so that nothing was trained.
        self.had_finished = False
        self.learning_rates = dict(learning_rates or {})
        check_rate_patterns(self.learning_rates, self.model)

    def get_train_dataloader(self) -> Any:
        """As in transformers, with the collator of the training."""
        own: Any = self.data_collator
        self.data_collator: Any = self.train_collator or own
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = own

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As in transformers, but each group of parameters is divided further by learning rate."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.learning_rates:
            names = {id(parameter): plain_name(name) for name, parameter in self.model.named_parameters()}
            for group in list(optimizer.param_groups):
                by_rate: dict[float, list[torch.Tensor]] = {}
                for parameter in group["params"]:
                    rate = learning_rate_of(names.get(id(parameter), ""), self.learning_rates, group["lr"])
                    by_rate.setdefault(rate, []).append(parameter)
                rest = group["lr"]
                group["params"] = by_rate.pop(rest, [])
                for rate, parameters in by_rate.items():
                    optimizer.add_param_group({**group, "params": parameters, "lr": rate})
            # Empty groups are removed, because they could not be told from other groups when training resumes.
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As in transformers. If the number of steps has changed, the next step has the rate of the present schedule.

        The stored optimizer holds the rate of the schedule that the run had: after its last step, that is 0.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        if checkpoint is None or not isinstance(schedule, LambdaLR):
            return
        pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        rates = [first * share(schedule.last_epoch) for first, share in pairs]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As in TRL; with `contrastive`, its loss is added in training."""
        if self.contrastive is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = dict(inputs)
        own = self.accelerator.unwrap_model(model)
        # The vectors of the videos are taken from the base model: TRL may compute the loss without the head's output.
        with video_vectors(own) as vectors:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, *rest = found if return_outputs else (found,)
        added = contrastive_of_batch(own, batch, vectors, self.contrastive.temperature)
        if added is not None:
            self._contrastive_losses.append(added.item())
            # With the number of items, the trainer does not divide the loss by the number of accumulated batches.
            takes_number: Any = self.model_accepts_loss_kwargs  # type: ignore[has-type]
            is_divided = num_items_in_batch is None or not takes_number
            share = 1 if is_divided else self.current_gradient_accumulation_steps
            loss = loss + self.contrastive.weight * added / share
        return (loss, *rest) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in TRL; with `contrastive`, entries of the training have the mean of its loss."""
        if self._contrastive_losses and "loss" in logs:
            logs["contrastive_loss"] = sum(self._contrastive_losses) / len(self._contrastive_losses)
            self._contrastive_losses.clear()
        super().log(logs, *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As in transformers; with `generate`, the metrics of generated answers come to the others."""
        arguments = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        with nullcontext() if self.augmenter is None else self.augmenter.off():
            output = super().evaluation_loop(*arguments)
        if self.generate_options is not None:
            metrics = self._answer_metrics(dataloader.dataset)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _answer_metrics(self, rows: Any) -> dict[str, float]:
        own = answer_rows(
            self.accelerator.unwrap_model(self.model),
            self.data_collator,
            rows,
            self.args.per_device_eval_batch_size,
            self.generate_options or {},
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        answers, references = (gather_object(texts) for texts in own)
        if not answers:
            return {}
        metrics = {"exact_match": exact_match(answers, references)}
        if self.compute_answer_metrics is not None:
            metrics.update(self.compute_answer_metrics(EvalPrediction(predictions=answers, label_ids=references)))
        return metrics


def learning_rate_of(name: str, learning_rates: Mapping[str, float], rest: float) -> float:
    """The rate of the first pattern found in a parameter's name; `rest` if there is none."""
    return next((rate for pattern, rate in learning_rates.items() if re.search(pattern, name)), rest)
