"""DPO and GRPO on video: the media reach the model with both answers and in rollouts, and a few steps learn."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

import hf_videollm
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.errors import MediaNotFound
from hf_videollm.models.transformers_compat import rename_checkpointing
from hf_videollm.origin import read_origin
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.dpo import PreferenceCollator
from hf_videollm.training.generated_answers import answer_rows
from hf_videollm.training.grpo_trainer import encode_rows
from hf_videollm.training.preference_rows import prompt_row, row_pair
from hf_videollm.training.prompt_inputs import encode_prompts, join_media, token_fields
from hf_videollm.training.reference_model import reference_model
from hf_videollm.training.row_numbers import name_wrong_row, named_datasets

ASK = "What colour is the shape?"
DESIGNS = [*bundled_checkpoints(), "videollama2"]
every_design = pytest.mark.parametrize("name", DESIGNS)
Checkpoint = Callable[[str], str]


def question(**source: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", **source}, {"type": "text", "text": ASK}]}]


def answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def pairs(clips: list[str]) -> list[dict[str, Any]]:
    """Two clips with the same question and opposite preferences: without the videos, what one row gains, the other
    loses."""
    words = (("red", "blue"), ("blue", "red"))
    return [
        {"prompt": question(), "chosen": answer(better), "rejected": answer(worse), "videos": [clip]}
        for clip, (better, worse) in zip(clips, words, strict=False)
    ]


def options(name: str) -> dict[str, int] | None:
    """Fewer frames than usual; IVA's frames are counted in another way."""
    return {"num_frames": 2} if name != "iva-tiny" else None


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    quick = {"output_dir": str(folder), "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return {**quick, "logging_steps": 1, "lr_scheduler_type": "constant", **more}


def own_log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities of the answers, from the logits of a plain forward."""
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1].log_softmax(-1)
    words = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (words * batch["completion_mask"][:, 1:]).sum(-1)


@every_design
def test_both_answers_are_judged_with_the_video(
    checkpoint: Checkpoint, clips: list[str], tmp_path: Path, name: str
) -> None:
    data = Dataset.from_list(pairs(clips[:2]))
    args = hf_videollm.dpo_config(**arguments(tmp_path, per_device_train_batch_size=2, learning_rate=1e-3))
    trainer = hf_videollm.make_dpo_trainer(checkpoint(name), data, args=args, processor_kwargs=options(name))
    batch = trainer.data_collator(list(data))
    texts = [
        trainer.processing_class.decode(ids[mask.bool()], skip_special_tokens=True).strip()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert texts == ["red", "blue", "blue", "red"]
    trainer.model.eval()
    found = torch.cat(trainer.compute_ref_log_probs(trainer.model, batch))
    torch.testing.assert_close(found, own_log_probs(trainer.model, batch), atol=1e-4, rtol=1e-4)
    # The control: with the videos of each other, every answer of every row has another probability.
    swapped = [{**row, "videos": clip["videos"]} for row, clip in zip(data, reversed(list(data)), strict=True)]
    others = torch.cat(trainer.compute_ref_log_probs(trainer.model, trainer.data_collator(swapped)))
    assert ((found - others).abs() > 1e-4).all()
    trainer.train()
    # At the start, the model is its reference, with nothing drawn at random.
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert trainer.state.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    trainer.save_model()
    assert_recorded(tmp_path, "make_dpo_trainer", checkpoint(name), 2)


def assert_recorded(folder: Path, maker: str, source: str, rows: int) -> None:
    """The folder of a run says how it was made, as that of supervised fine-tuning does."""
    record = json.loads((folder / "run.json").read_text())
    assert record["made_by"] == f"hf_videollm.{maker}"
    assert record["data"] == {"rows": rows}
    assert Path(record["base_model"]["model"]).name == Path(source).name
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    card = (folder / "README.md").read_text()
    assert f"`hf_videollm.{maker}` made it from `{Path(source).name}`" in card
    assert "recipe.yaml" not in card
    assert read_origin(folder).sources[0].name == Path(source).name


def margins(checkpoint: str, clips: list[str], folder: Path, **more: Any) -> tuple[float, float]:
    """Margin and share of right preferences after some steps of DPO."""
    data = Dataset.from_list(pairs(clips[:2]))
    args = hf_videollm.dpo_config(**arguments(folder, per_device_train_batch_size=2, learning_rate=5e-4, **more))
    trainer = hf_videollm.make_dpo_trainer(checkpoint, data, args=args, eval_dataset=data)
    trainer.train()
    metrics = trainer.evaluate()
    return metrics["eval_rewards/margins"], metrics["eval_rewards/accuracies"]


def test_a_few_steps_raise_the_margin(checkpoint: Checkpoint, clips: list[str], tmp_path: Path) -> None:
    margin, accuracy = margins(checkpoint("pllava-tiny"), clips, tmp_path, max_steps=4)
    assert margin > 0.1
    assert accuracy == 1
    # The control: without the videos, opposite preferences about one question cancel out.
    margin, accuracy = margins(checkpoint("pllava-tiny"), [clips[0], clips[0]], tmp_path, max_steps=4)
    assert margin == pytest.approx(0, abs=1e-3)
    assert accuracy == 0.5


@pytest.mark.slow
@every_design
def test_a_few_steps_raise_the_margin_of_every_design(
    checkpoint: Checkpoint, clips: list[str], tmp_path: Path, name: str
) -> None:
    margin, accuracy = margins(checkpoint(name), clips, tmp_path, max_steps=16)
    assert margin > 0.1
    assert accuracy == 1


@contextmanager
def forwards_with_gradients(model: Any) -> Iterator[list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def remember(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            seen.append({name: value for name, value in kwargs.items() if name not in ("labels", "fused_lm_head")})

    hook = model.register_forward_pre_hook(remember, with_kwargs=True)
    yield seen
    hook.remove()


@every_design
def test_rollouts_and_losses_see_the_video(checkpoint: Checkpoint, clips: list[str], tmp_path: Path, name: str) -> None:
    data = Dataset.from_list([{"prompt": question(), "videos": [clip]} for clip in clips])
    judged: list[dict[str, Any]] = []

    def reward(completions: Any, **columns: Any) -> list[float]:
        judged.append({"texts": [text[0]["content"].strip() for text in completions], **columns})
        return [float(number) for number in range(len(completions))]

    args = hf_videollm.grpo_config(
        **arguments(tmp_path, per_device_train_batch_size=6, num_generations=2, max_completion_length=4),
        generation_kwargs={"do_sample": False},
    )
    trainer = hf_videollm.make_grpo_trainer(
        checkpoint(name), data, reward, args=args, processor_kwargs=options(name), max_length=1000
    )
    asked = [{"prompt": question(), "completion": answer("red"), "videos": [clip]} for clip in clips]
    expected, _ = answer_rows(trainer.model, trainer.collator, asked, 3, {"max_new_tokens": 4})
    with forwards_with_gradients(trainer.model) as seen:
        trainer.train()
    (rollout,), (inputs,) = judged, seen
    # Greedy rollouts are the answers that the model gives to these videos, and rewards get the rows as they were.
    assert rollout["texts"] == [expected[clips.index(videos[0])] for videos in rollout["videos"]]
    assert rollout["prompts"][0][0]["content"][0]["type"] == "video"
    # TRL has shuffled the rows. With the videos of their own rows, the model would write every answer again.
    length = max(map(len, rollout["completion_ids"]))
    words = inputs["input_ids"][:, -length:]
    is_word = inputs["attention_mask"][:, -length:].bool()
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(**inputs).logits[:, -length - 1 : -1]
        frames = inputs["pixel_values_videos"]
        rolled = {**inputs, "pixel_values_videos": frames.roll(len(frames) // 6, 0)}
        others = trainer.model(**rolled).logits[:, -length - 1 : -1]
    assert torch.equal(logits.argmax(-1)[is_word], words[is_word])
    # The control: the videos of other rows.
    assert (logits - others)[is_word].abs().max() > 1e-3
    trainer.save_model()
    assert_recorded(tmp_path, "make_grpo_trainer", checkpoint(name), len(data))


@every_design
def test_prompts_encoded_one_by_one_make_the_same_batch(
    checkpoint: Checkpoint, clips: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collator = VideoDataCollator(AutoProcessor.from_pretrained(checkpoint(name)))
    two = [{"role": "user", "content": [{"type": "video"}, {"type": "video"}, {"type": "text", "text": ASK}]}]
    rows = [
        {"prompt": question(), "videos": [clips[0]]},
        {"prompt": [{"role": "user", "content": ASK}]},
        {"prompt": two, "videos": clips[1:]},
        {"prompt": question(), "videos": [clips[0]]},
    ]
    chats = [prompt_row(row, "row") for row in rows]
    together, _ = collator.questions(chats)
    calls: list[int] = []
    one_batch = collator.questions
    monkeypatch.setattr(collator, "questions", lambda rows: calls.append(len(rows)) or one_batch(rows))
    encoded = encode_prompts(collator, chats)
    assert calls == [1, 1, 1]  # equal rows are read once
    length = together["input_ids"].shape[1]
    joined = {**join_media(encoded), **token_fields(encoded, length)}
    joined["attention_mask"] = torch.stack([torch.arange(length) >= length - len(row.ids) for row in encoded]).long()
    ids = [ids[mask.bool()].tolist() for ids, mask in zip(together["input_ids"], joined["attention_mask"], strict=True)]
    assert ids == [row.ids for row in encoded]
    assert joined.keys() == together.keys() - {"input_ids"}
    watched = torch.tensor([0, 2, 3])
    for key, value in joined.items():
        # LinVT's question about no video is not read.
        rows_of = watched if key.startswith("question_") else slice(None)
        torch.testing.assert_close(value[rows_of], together[key][rows_of])


@pytest.mark.parametrize("name", ["pllava-tiny", "linvt-tiny"])
def test_rollouts_may_have_no_media(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    """A model refuses batches of TRL whose media may be lost; these never had any."""
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": answer(ASK)[0]["content"]}]}] * 2)
    args = hf_videollm.grpo_config(
        **arguments(tmp_path, per_device_train_batch_size=2, num_generations=2, max_completion_length=2)
    )
    trainer = hf_videollm.make_grpo_trainer(checkpoint(name), data, lambda completions, **_: [0.0, 1.0], args=args)
    trainer.train()
    assert trainer.state.global_step == 1


def test_options_of_the_model_reach_rollouts_and_losses(
    checkpoint: Checkpoint, clips: list[str], tmp_path: Path
) -> None:
    """FTFV's number of tokens of a frame: model and prompt must agree on it. A reference model, too."""
    data = Dataset.from_list([{"prompt": question(path=clip), "colour": "red"} for clip in clips])
    args = hf_videollm.grpo_config(
        **arguments(tmp_path, per_device_train_batch_size=2, num_generations=2, max_completion_length=2), beta=0.1
    )
    trainer = hf_videollm.make_grpo_trainer(
        checkpoint("ftfv-tiny"),
        data.to_iterable_dataset(),
        lambda completions, colour, **columns: [float(text[0]["content"] == colour[0]) for text in completions],
        args=args,
        processor_kwargs={"num_frames": 2, "num_tokens_per_frame": 2},
    )
    with forwards_with_gradients(trainer.model) as seen:
        trainer.train()
    assert seen[0]["num_tokens_per_frame"] == 2
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-5)


def test_a_lora_needs_no_reference_model(checkpoint: Checkpoint, clips: list[str], tmp_path: Path) -> None:
    from peft import LoraConfig

    model = AutoModelForImageTextToText.from_pretrained(checkpoint("pllava-tiny"))
    trainer = hf_videollm.make_dpo_trainer(
        model,
        Dataset.from_list(pairs(clips)).to_iterable_dataset(),
        args=hf_videollm.dpo_config(**arguments(tmp_path)),
        peft_config=LoraConfig(target_modules=["q_proj"], r=2),
        processor_kwargs={"num_frames": 2},
    )
    trainer.train()
    assert trainer.ref_model is None
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("name", ["pllava-tiny", "linvt-tiny", "iva-tiny"])
def test_a_reference_may_be_named(
    checkpoint: Checkpoint, clips: list[str], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset.from_list(pairs(clips[:2]))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(name))

    def make(reference: Any) -> Any:
        args = hf_videollm.dpo_config(**arguments(tmp_path))
        return hf_videollm.make_dpo_trainer(model, data, args=args, ref_model=reference)

    with torch.no_grad():
        model.lm_head.weight.add_(1)
    for reference in (name, checkpoint(name)):
        found = make(reference).ref_model.lm_head.weight
        assert torch.equal(found + 1, model.lm_head.weight)
    loads: list[Any] = []
    monkeypatch.setattr("hf_videollm.training.reference_model.load_for_training", loads.append)
    other = "pllava-tiny" if name != "pllava-tiny" else "iva-tiny"
    given = AutoModelForImageTextToText.from_pretrained(checkpoint(other))
    for reference in (other, given):
        with pytest.raises(ValueError, match=r"^ref_model \(.*does not fit the model: its design is \w+, the model's"):
            make(reference)
    with pytest.raises(FileNotFoundError, match=f"did you mean .*{name}"):
        make(f"{name}y")
    assert not loads


def test_a_reference_with_other_words_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint("pllava-tiny"))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint("pllava-tiny"))
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint("pllava-tiny"), changed)
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    red, blue = (next(word for word in words if word.endswith(name)) for name in ("red", "blue"))
    words[red], words[blue] = words[blue], words[red]
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"does not fit the model: the word '.*' is token \d+ there, and \d+ here"):
        reference_model(changed, model, processor)
    larger = copy.deepcopy(model.config)
    larger.get_text_config().vocab_size += 8
    with pytest.raises(ValueError, match=r"its vocabulary, in tokens, is \d+, the model's \d+"):
        reference_model(SimpleNamespace(config=larger), model, processor)


WRONG_PREFERENCES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing": ({"videos": ["no.mp4"]}, MediaNotFound, "no.mp4"),
    "no rejected": ({"rejected": None}, ValueError, "has no rejected"),
    "no media": ({"videos": None}, ValueError, "video"),
    "two videos": ({"videos": ["a.mp4", "b.mp4"]}, ValueError, "their numbers must be the same"),
    "blank": ({"chosen": [{"role": "user", "content": answer("What?")[0]["content"]}]}, ValueError, "assistant"),
}


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
@pytest.mark.parametrize("name", WRONG_PREFERENCES)
def test_errors_say_which_row_is_wrong(
    checkpoint: Checkpoint, clips: list[str], tmp_path: Path, name: str, kind: str
) -> None:
    wrong, error, message = WRONG_PREFERENCES[name]
    if kind == "grpo" and not wrong.keys() & {"videos"}:
        return
    rows = [*pairs(clips[:2]), {**pairs(clips)[0], **wrong}]
    data = Dataset.from_list(rows)
    collator = VideoDataCollator(AutoProcessor.from_pretrained(checkpoint("pllava-tiny")))
    datasets = named_datasets(data, {"others": data.select([2])})

    def make(batch: list[dict[str, Any]], datasets: dict[str, Any]) -> Any:
        if kind == "dpo":
            return PreferenceCollator(collator, datasets)(batch)
        return name_wrong_row(partial(encode_rows, collator), batch, datasets)

    with pytest.raises(error, match=rf"^train_dataset, row 2:? .*{message}"):
        make([data[1], data[2]], datasets)
    with pytest.raises(error, match=rf"^eval_dataset\['others'\], row 0:? .*{message}"):
        make([data[1], data[2]], {name: rows for name, rows in datasets.items() if name != "train_dataset"})
    with pytest.raises(error, match=rf"^Row 1 of the batch:? .*{message}"):
        make([data[1], data[2]], {"train_dataset": data.to_iterable_dataset()})
    with pytest.raises(error, match=rf"^Row 0 of the batch \(id 'x'\):? .*{message}"):
        make([{**data[2], "id": "x"}], {})
    # The control: the other rows are right.
    make([data[0], data[1]], datasets)


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
@pytest.mark.parametrize("name", ["pllava-tiny", "linvt-tiny"])
def test_trl_alone_does_not_train_without_the_video(
    checkpoint: Checkpoint, clips: list[str], tmp_path: Path, name: str, kind: str
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(name))
    processor = AutoProcessor.from_pretrained(checkpoint(name))
    plain = {"bf16": False, "report_to": "none", **rename_checkpointing({"gradient_checkpointing": False})}

    def train(rows: list[dict[str, Any]]) -> None:
        data = Dataset.from_list(rows)
        if kind == "dpo":
            args = DPOConfig(**arguments(tmp_path), **plain)
            DPOTrainer(model, args=args, train_dataset=data, processing_class=processor).train()
            return
        args = GRPOConfig(
            **arguments(tmp_path, per_device_train_batch_size=2), **plain, num_generations=2, max_completion_length=2
        )
        rewards = [lambda completions, **columns: [0.0] * len(completions)]
        data = data.select_columns([column for column in ("prompt", "videos") if column in data.column_names])
        GRPOTrainer(model, rewards, args=args, train_dataset=data, processing_class=processor).train()

    both = [*pairs(clips)]
    named = [{**row, "prompt": question(path=clip), "videos": None} for row, clip in zip(both, clips, strict=False)]
    written = [{"prompt": f"<video> {ASK}", "chosen": "red", "rejected": "blue"}] * 2
    chats = [{**row, "prompt": [{"role": "user", "content": f"<video> {ASK}"}]} for row in named]
    without_column = [[{key: row[key] for key in written[0]} for row in rows] for rows in (named, chats)]
    for rows in (*without_column, both, written):
        with pytest.raises(ValueError, match=rf"make_trainer, make_{kind}_trainer|make_dpo_trainer (and|or) make_grpo"):
            train(rows)


WRONG_DPO: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "beforehand": ({"precompute_ref_log_probs": True}, ValueError, "TRL does not compute the reference beforehand"),
    "padding_free": ({"padding_free": True}, ValueError, "rows with media are padded"),
    "cutting": ({"max_length": 512}, ValueError, "rows are never cut.*make_dpo_trainer"),
    "columns": ({"remove_unused_columns": True}, ValueError, "the columns hold the media"),
    "workers": ({"dataset_num_proc": 2}, ValueError, "dataloader_num_workers"),
    "misspelt": ({"bata": 0.1}, TypeError, "'beta'|beta"),
}
WRONG_GRPO: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "vllm": ({"use_vllm": True}, ValueError, "only the model's own generate takes videos"),
    "batching": ({"use_transformers_continuous_batching": True}, ValueError, "only the model's own generate"),
    "columns": ({"remove_unused_columns": True}, ValueError, "the columns hold the media"),
    "misspelt": ({"num_generation": 2}, TypeError, "num_generations"),
}


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        *[pytest.param(hf_videollm.dpo_config, wrong, id=f"dpo {name}") for name, wrong in WRONG_DPO.items()],
        *[pytest.param(hf_videollm.grpo_config, wrong, id=f"grpo {name}") for name, wrong in WRONG_GRPO.items()],
    ],
)
def test_what_trl_cannot_do_with_media_is_refused(
    config: Callable[..., Any], wrong: tuple[dict[str, Any], type[Exception], str]
) -> None:
    given, kind, message = wrong
    with pytest.raises(kind, match=message):
        config(**given)


def test_arguments_of_the_trainers_are_checked(checkpoint: Checkpoint, clips: list[str], tmp_path: Path) -> None:
    data, source = Dataset.from_list(pairs(clips)), checkpoint("pllava-tiny")
    plain = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    plain |= rename_checkpointing({"gradient_checkpointing": False})
    with pytest.raises(ValueError, match=r"would drop or cut media: make the arguments by hf_videollm\.dpo_config"):
        hf_videollm.make_dpo_trainer(source, data, args=DPOConfig(**plain))
    with pytest.raises(TypeError, match="makes the data_collator itself: pass processor_kwargs"):
        hf_videollm.make_dpo_trainer(source, data, data_collator=list)
    with pytest.raises(TypeError, match="hands no media on to the loss"):
        hf_videollm.make_grpo_trainer(source, data, len, rollout_func=len)
    model = AutoModelForImageTextToText.from_pretrained(source)
    processor = AutoProcessor.from_pretrained(source)
    model.config.name_or_path = ""
    args = hf_videollm.grpo_config(**arguments(tmp_path), beta=0.1)
    with pytest.raises(ValueError, match="this model comes from none"):
        hf_videollm.make_grpo_trainer(model, data, len, processor=processor, args=args)


WRONG_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "no chosen": ({"prompt": question(), "rejected": answer("red")}, "row 3 has no chosen"),
    "texts": ({"prompt": "What?", "chosen": "red", "rejected": "blue"}, "chosen must be a list of messages"),
    "equal": ({"prompt": question(), "chosen": answer("red"), "rejected": answer("red")}, "are the same"),
    "other prompts": (
        {"chosen": [*question(), *answer("a")], "rejected": [*question(path="b"), *answer("b")]},
        "begin with the same prompt",
    ),
    "tools": (
        {"prompt": question(), "chosen": answer("a"), "rejected": answer("b"), "tools": ["f"]},
        "has tools, which the chat templates",
    ),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_wrong_pairs_are_named(name: str) -> None:
    row, message = WRONG_ROWS[name]
    with pytest.raises(ValueError, match=message):
        row_pair(row, "row 3")


def test_prompts_may_be_part_of_the_answers() -> None:
    prompt = [*question(), *answer("A shape."), *question()]
    row = {"chosen": [*prompt, *answer("red")], "rejected": [*prompt, *answer("blue")], "videos": ["a.mp4", "a.mp4"]}
    chosen, rejected = row_pair(row, "row 3")
    assert chosen == {"videos": row["videos"], "prompt": prompt, "completion": answer("red")}
    assert rejected["completion"] == answer("blue")
    with pytest.raises(ValueError, match="prompt ends with an answer"):
        prompt_row({"prompt": prompt[:2]}, "row 3")
