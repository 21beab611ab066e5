"""IVA through everything around the model: pipeline, command line, checkpoints, trainer; and the paper's stages."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from tiny_iva_checkpoint import IMAGE, QUERIES, QUERY, QUERY_TOKEN, make_config, make_model, make_processor
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback, pipeline

import hf_videollm
from hf_videollm import CheckpointError, VideoTextToTextPipeline, save_checkpoint
from hf_videollm.costs.presets import IVA_VARIANTS
from hf_videollm.data.records import VideoQARecord, make_record, write_jsonl
from hf_videollm.models.processing_iva import processor_options
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.loading import load_for_training
from hf_videollm.training.sft import Recipe, RecipeError, freeze_all_but, load_recipe, make_trainer, split_rounds
from hf_videollm.training.trainer import learning_rate_of

GREEDY = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 6}}
QUESTION = "What moves?"


@pytest.fixture(scope="module")
def pipe(tiny_iva_checkpoint: str) -> VideoTextToTextPipeline:
    return pipeline("video-text-to-text", model=tiny_iva_checkpoint, device="cpu")


def answer(result: list[dict[str, Any]]) -> str:
    return result[0]["generated_text"]


# ------------------------------------------------------------------------------------------------------- asking


def test_pipeline_equals_generate_by_hand(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    chat = [{"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": QUESTION}]}]
    inputs = pipe.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["input_ids"][0, -QUERIES:].tolist() == [QUERY] * QUERIES
    tokens = pipe.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    found = answer(pipe(clips[0], text=QUESTION, return_full_text=False, **GREEDY))
    assert found.strip() == pipe.processor.decode(tokens).strip()
    assert "iva_query" not in found
    assert len({answer(pipe(clip, text=QUESTION, **GREEDY)) for clip in clips}) > 1, "the video decides"


def test_pipeline_batches_equal_single_calls(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    """Videos of unequal length, an image, and text alone; rows with query tokens and rows without."""
    samples = [
        {"video": hf_videollm.load_video(clips[0], num_frames=5)[0], "text": "What?"},
        {"videos": [clips[1], clips[2]], "text": "Which of the two is longer?"},
        {"text": "Hello there"},
        {"image": torch.zeros(3, 20, 20, dtype=torch.uint8), "text": "What is it?"},
    ]
    alone = [pipe(sample, **GREEDY) for sample in samples]
    assert pipe(samples, batch_size=4, **GREEDY) == alone


def test_options_of_a_call_reach_the_frames(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    seen: list[int] = []
    hook = pipe.model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    for options in ({}, {"fps": 4.0}, {"fps": 4.0, "max_frames": 3}, {"num_frames": 5}, {"start": 1.0, "end": 2.0}):
        pipe(clips[0], text=QUESTION, **GREEDY, **options)
    hook.remove()
    assert seen == [3, 12, 3, 5, 1], "a clip of three seconds"


def test_conversation_in_rounds(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    content = [{"type": "video", "path": clips[0]}, {"type": "text", "text": QUESTION}]
    result = pipe([{"role": "user", "content": content}], **GREEDY)[0]["generated_text"]
    follow_up = [*result, {"role": "user", "content": [{"type": "text", "text": "And why?"}]}]
    further = pipe(follow_up, **GREEDY)[0]["generated_text"]
    assert [message["role"] for message in further] == ["user", "assistant"] * 2


def test_command_line(cli: Callable[..., tuple[int, str, str]], tiny_iva_checkpoint: str, clips: list[str]) -> None:
    common = ("--model", tiny_iva_checkpoint, "--max-new-tokens", "4")
    code, out, err = cli("ask", clips[0], QUESTION, *common, "--json")
    assert code == 0, err
    assert json.loads(out)["fps"] == 1.0
    code, out, err = cli("ask", clips[0], QUESTION, *common, "--fps", "8", "--max-frames", "3", "--json")
    assert code == 0, err
    assert json.loads(out)["fps"] == 8.0
    assert "num_frames" not in json.loads(out)
    code, _, err = cli("ask", clips[0], QUESTION, *common, "--frames", "4", "--max-frames", "3")
    assert (code, "raise --max-frames" in err) == (2, True)
    assert cli("caption", clips[0], *common)[0] == 0
    code, _, err = cli("ask", clips[0], QUESTION, *common, "--fps", "1", "--frames", "2")
    assert code == 2
    assert "--frames" in err
    assert "--fps" in err
    code, out, err = cli("info", tiny_iva_checkpoint, "--json")
    assert code == 0, err
    assert '"design": "IvaForConditionalGeneration"' in out
    assert '"adapter"' in out
    assert '"query_tokens"' in out


# ------------------------------------------------------------------------------------------------------ loading


def test_checkpoints_are_loaded_strictly(tiny_iva_checkpoint: str) -> None:
    """No weight is ever invented, and none is left over, unless it is asked for."""
    with pytest.raises(CheckpointError, match="adapter"):
        AutoModelForImageTextToText.from_pretrained(tiny_iva_checkpoint, num_insertions=0)
    with pytest.raises(CheckpointError, match="adapter"):
        AutoModelForImageTextToText.from_pretrained(tiny_iva_checkpoint, num_adapter_layers=3)
    # The number of insertions is no property of the weights.
    model = AutoModelForImageTextToText.from_pretrained(tiny_iva_checkpoint, num_insertions=1)
    assert model.config.insertion_layers == [0]


def test_processor_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its number of query tokens is 0, the model's 3"):
        save_checkpoint(make_model(), make_processor(num_query_tokens=0), tmp_path / "out")
    with pytest.raises(ValueError, match="query tokens is 3, the model's 0"):
        save_checkpoint(make_model(num_insertions=0), make_processor(), tmp_path / "out")
    with pytest.raises(ValueError, match="query_placement is every, the model's last"):
        save_checkpoint(make_model(), make_processor(query_placement="every"), tmp_path / "out")
    with pytest.raises(ValueError, match="image_temporal_token is True, the model's False"):
        save_checkpoint(make_model(image_temporal_token=False), make_processor(), tmp_path / "out")


def test_impossible_values_and_options_are_told_in_one_line(
    cli: Callable[..., tuple[int, str, str]], tiny_iva_checkpoint: str, clips: list[str], tmp_path: Path
) -> None:
    shutil.copytree(tiny_iva_checkpoint, tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    (tmp_path / "bad" / "config.json").write_text(json.dumps({**config, "num_insertions": 3}))
    for arguments in (("ask", clips[0], QUESTION, "--model", str(tmp_path / "bad")), ("info", str(tmp_path / "bad"))):
        code, out, error = cli(*arguments)
        assert (code, out) == (2, "")
        assert "num_insertions is 3, but the language model has 2 layers" in error
        assert "bad: config.json" in error
    code, _, error = cli("ask", clips[0], QUESTION, "--model", tiny_iva_checkpoint, "--lora-alpha", "4")
    assert code == 2
    assert "has no LoRA adapter" in error


def test_adapter_is_added_to_a_model_of_the_first_stages(tmp_path: Path, clips: list[str]) -> None:
    """Stages 0 and 1 train without the adapter; with it, the model at first answers as it did (W_out is zero)."""
    first = make_model(num_insertions=0)
    save_checkpoint(first, make_processor(num_query_tokens=0), tmp_path / "stage1")
    grown = AutoModelForImageTextToText.from_pretrained(tmp_path / "stage1", num_insertions=2, strict=False)
    processor = AutoProcessor.from_pretrained(tmp_path / "stage1", **processor_options(grown.config))
    save_checkpoint(grown, processor, tmp_path / "stage2")
    grown = AutoModelForImageTextToText.from_pretrained(tmp_path / "stage2")
    processor = AutoProcessor.from_pretrained(tmp_path / "stage2")
    assert processor.num_query_tokens == grown.config.num_query_tokens == QUERIES
    assert not grown.model.adapter.output.weight.any()
    weights = grown.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in first.state_dict().items())
    chat = [{"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": QUESTION}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(chat, **options)
    assert int((batch["input_ids"] == QUERY).sum()) == QUERIES
    with torch.no_grad():
        grown_logits = grown(**batch).logits[:, :-QUERIES]
        first_logits = first(**make_processor(num_query_tokens=0).apply_chat_template(chat, **options)).logits
    torch.testing.assert_close(grown_logits, first_logits, atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def records(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    turns = [("Colour?", "red"), ("Shape?", "ring")]
    made = [make_record(str(number), clip, turns) for number, clip in enumerate(clips)]
    return str(write_jsonl(made, tmp_path_factory.mktemp("records") / "records.jsonl"))


@pytest.fixture(scope="module")
def image_records(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    made = []
    for name in ("red", "blue"):
        Image.new("RGB", (40, 30), name).save(folder / f"{name}.png")
        question = [{"type": "image", "path": f"{name}.png"}, {"type": "text", "text": "Colour?"}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": name}]
        made.append(VideoQARecord.from_dict({"id": name, "messages": messages}))
    return str(write_jsonl(made, folder / "records.jsonl"))


def quick(folder: Path, **arguments: Any) -> dict[str, Any]:
    fast = {"per_device_train_batch_size": 2, "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    return {"output_dir": str(folder / "out"), "save_strategy": "no", **fast, **arguments}


def test_batch_of_the_collator_trains_adapter_and_queries(clips: list[str]) -> None:
    model = make_model().train()
    rows = [make_record("1", clips[0], [("Colour?", "red")]), make_record("2", clips[1], [("A?", "b"), ("C?", "d")])]
    batch = VideoDataCollator(make_processor())([row.to_dict() for row in rows])
    assert not ((batch["labels"] == QUERY) | (batch["labels"] == IMAGE)).any()
    assert (batch["input_ids"] == QUERY).sum(-1).tolist() == [QUERIES, QUERIES]
    model(**batch).loss.backward()
    for name in ("adapter.output.weight", "query_tokens.weight", "connector.pooling.weight.weight"):
        assert model.model.get_parameter(name).grad.abs().max() > 0, name


def test_every_round_is_a_sample(clips: list[str]) -> None:
    """Paper, Eq. 5: the loss is on every answer, given all earlier rounds."""
    record = make_record("7", clips[0], [("Colour?", "red"), ("Shape?", "ring"), ("Way?", "left")])
    samples = split_rounds([record])
    assert [sample.id for sample in samples] == ["7#1", "7#2", "7#3"]
    assert [sample.answer for sample in samples] == ["red", "ring", "left"]
    assert samples[2].messages == record.messages
    processor = make_processor()
    batch = VideoDataCollator(processor)([sample.to_dict() for sample in samples])
    learned = [processor.tokenizer.convert_ids_to_tokens(labels[labels >= 0].tolist()) for labels in batch["labels"]]
    texts = ["".join(words) for words in learned]
    assert texts == [" red</s>", " ring</s>", " left</s>"]


class Rates(TrainerCallback):
    """Notes the learning rate of every group at the first step."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.groups = [dict(group) for group in optimizer.param_groups]


def test_instruction_stage_as_in_the_paper(records: str, tmp_path: Path) -> None:
    """LoRA on the language model, adapter and queries at one rate, connector at another, everything else frozen."""
    shipped = load_recipe("iva/instruct")
    lora = {**shipped.lora, "r": 2, "lora_alpha": 4}
    recipe = replace(
        shipped, records=records, lora=lora, arguments=quick(tmp_path, lr_scheduler_type="constant", learning_rate=1e-4)
    )
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(recipe, model, make_processor())
    assert len(trainer.train_dataset) == 6, "three clips of two rounds"
    rates = Rates()
    trainer.add_callback(rates)
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    by_part: dict[str, set[float]] = {}
    for group in rates.groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            part = next(part for part in ("lora_", ".adapter.", "query_tokens", "connector") if part in name)
            by_part.setdefault(part, set()).add(group["lr"])
    assert by_part == {"lora_": {1e-4}, ".adapter.": {1e-4}, "query_tokens": {1e-4}, "connector": {2e-5}}
    adapted = {name.split(".")[-4] for name in names.values() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all("language_model" in name for name in names.values() if "lora_A" in name)
    merged = trainer.model.merge_and_unload().state_dict()
    changed = {name for name, value in merged.items() if not torch.equal(value, before[name])}
    for part in ("adapter", "query_tokens", "connector", "language_model"):
        assert any(f".{part}." in name for name in changed), f"{part} was not trained"
    assert not any("vision_tower" in name or "embed_tokens" in name or "lm_head" in name for name in changed)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of the first stages, which has no adapter."""
    folder = tmp_path_factory.mktemp("stage1") / "stage1"
    return str(save_checkpoint(make_model(num_insertions=0), make_processor(num_query_tokens=0), folder))


def test_a_recipe_gives_the_model_its_adapter(stage1: str, records: str, tmp_path: Path) -> None:
    """Stage 1 -> stage 2 with the shipped recipe; then on from the result, which has its adapter."""
    shipped = load_recipe("iva/instruct")
    assert shipped.model_options == {"num_insertions": 8}
    recipe = replace(
        shipped,
        model=stage1,
        model_options={"num_insertions": 2},
        records=records,
        lora={**shipped.lora, "r": 2},
        arguments=quick(tmp_path, learning_rate=1e-2),
    )
    trainer = make_trainer(recipe)
    assert trainer.processing_class.num_query_tokens == QUERIES
    batch = next(iter(trainer.get_train_dataloader()))
    assert ((batch["input_ids"] == QUERY).sum(-1) == QUERIES).all()
    again = make_trainer(recipe).model.state_dict()
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    changed = [name for name in start if not torch.equal(start[name], again[name])]
    assert not changed, "the new parts must follow the seed"
    trainer.train()
    trainer.save_model(str(tmp_path / "lora"))
    merged = trainer.model.merge_and_unload()
    assert merged.model.adapter.output.weight.any()
    # As the recipe tells.
    base, _ = load_for_training(stage1, recipe.model_options, seed=1)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "lora")).merge_and_unload().state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in merged.state_dict().items())
    save_checkpoint(merged, trainer.processing_class, tmp_path / "stage2")
    model, processor = load_for_training(str(tmp_path / "stage2"), {"num_insertions": 1})
    assert (model.config.insertion_layers, processor.num_query_tokens) == ([0], QUERIES)
    assert torch.equal(model.model.adapter.output.weight, merged.model.adapter.output.weight)


def test_options_of_the_model_on_the_command_line(stage1: str, records: str, cli: Callable[..., Any]) -> None:
    base = ["train", "iva/instruct", "--model", stage1, "--records", records, "--dry-run"]
    # The recipe asks for 8, which is too many for two layers; the command line counts.
    code, shown, _ = cli(*base, "--model-option", "num_insertions=2")
    assert code == 0
    assert f"{QUERY_TOKEN}*{QUERIES} " in shown
    for options, words in (
        (["--model-option", "num_insertions=0"], "has no module adapter, query_tokens, so it could not be trained"),
        ([], "num_insertions is 8, but the language model has 2 layers"),
        (["--model-option", "num_insertions"], "--model-option must be NAME=VALUE"),
    ):
        code, _, error = cli(*base, *options)
        assert code == 2
        assert words in error


def test_options_add_parts_and_nothing_else(stage1: str, tiny_iva_checkpoint: str) -> None:
    for source, options, message in (
        (stage1, {"num_insertion": 2}, "IvaConfig has no field num_insertion"),
        (stage1, {"num_insertions": 3}, "num_insertions is 3, but the language model has 2 layers"),
        (tiny_iva_checkpoint, {"num_insertions": 0}, "tensors would be left over .*adapter"),
        (tiny_iva_checkpoint, {"adapter_hidden_size": 8}, "tensors would be of another shape .*adapter"),
    ):
        with pytest.raises(ValueError, match=message):
            load_for_training(source, options)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"modules_to_save": ["adapter", "connector"]}, "lora.modules_to_save: .* has no module adapter,"),
        ({"target_modules": ["q_proj", "query_proj"]}, "lora.target_modules: .* has no module query_proj,"),
    ],
)
def test_parts_that_the_model_does_not_have(lora: dict[str, Any], message: str, records: str, tmp_path: Path) -> None:
    """PEFT would train without them and say nothing."""
    recipe = Recipe(records=records, lora={"r": 2, "target_modules": ["q_proj"], **lora}, arguments=quick(tmp_path))
    with pytest.raises(RecipeError, match=message):
        make_trainer(recipe, make_model(num_insertions=0), make_processor(num_query_tokens=0))


@pytest.mark.parametrize(
    ("name", "data", "options", "trained", "rate"),
    [
        ("iva/align", "image_records", {"image_temporal_token": False}, "connector.global_mlp.", 2e-4),
        ("iva/pretrain", "records", {}, "connector.", 3e-4),
    ],
)
def test_first_stages_as_in_the_paper(
    name: str,
    data: str,
    options: dict[str, Any],
    trained: str,
    rate: float,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """Without the adapter: images teach the MLP of the global token, videos the whole connector."""
    recipe, records = load_recipe(name), request.getfixturevalue(data)
    assert recipe.arguments["learning_rate"] == rate
    model = make_model(num_insertions=0, **options)
    processor = make_processor(**processor_options(model.config))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_trainer(replace(recipe, records=records, arguments=quick(tmp_path)), model, processor)
    trainer.train()
    changed = {key for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if f"model.{trained}" in key}


@pytest.mark.parametrize(("name", "batch"), [("iva/align", 256), ("iva/pretrain", 24), ("iva/instruct", 64)])
def test_recipes_have_the_batches_of_the_paper(name: str, batch: int) -> None:
    arguments = load_recipe(name).arguments
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] == batch
    assert arguments["lr_scheduler_type"] == "cosine"


def test_learning_rates_by_pattern(records: str, tmp_path: Path) -> None:
    rates = {"adapter": 1.0, "connector": 2.0}
    assert learning_rate_of("model.adapter.input.weight", rates, 3.0) == 1.0
    assert learning_rate_of("model.connector.temporal.bias", rates, 3.0) == 2.0
    assert learning_rate_of("lm_head.weight", rates, 3.0) == 3.0
    recipe = Recipe(records=records, learning_rates={"vision_tower": 1e-5}, trainable=["connector"])
    with pytest.raises(ValueError, match="'vision_tower' matches no parameter that is trained"):
        make_trainer(replace(recipe, arguments=quick(tmp_path)), make_model(), make_processor())


# ---------------------------------------------------------------------------------------------------- baselines


def test_adapter_alone_can_be_trained() -> None:
    names = freeze_all_but(make_model(), [r"\.adapter\.", "query_tokens"])
    assert names
    assert all(".adapter." in name or "query_tokens" in name for name in names)


def test_public_classes_are_what_the_checkpoint_says(tiny_iva_checkpoint: str) -> None:
    config = make_config()
    assert config.auto_map["AutoModelForImageTextToText"] == "modeling_iva.IvaForConditionalGeneration"
    model = AutoModelForImageTextToText.from_pretrained(tiny_iva_checkpoint)
    assert type(model) is hf_videollm.IvaForConditionalGeneration


@pytest.mark.parametrize("name", sorted(IVA_VARIANTS))
def test_rows_of_the_papers_tables_answer(name: str, clips: list[str]) -> None:
    """Another LQ, another NI, and without IVA: the same prompt, made and read by tiny models with their numbers."""
    wanted = {"num_query_tokens": 16, "num_insertions": 8, **IVA_VARIANTS[name]}
    model = make_model(**wanted, text_config={**make_config().text_config.to_dict(), "num_hidden_layers": 16})
    processor = make_processor(**processor_options(model.config))
    chat = [{"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": QUESTION}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(chat, **options)
    queries = wanted["num_query_tokens"] if wanted["num_insertions"] else 0
    assert int((batch["input_ids"] == QUERY).sum()) == queries
    calls: list[int] = []
    if wanted["num_insertions"]:
        model.model.adapter.register_forward_hook(lambda *_: calls.append(1))
    tokens = model.generate(**batch, do_sample=False, max_new_tokens=3)
    assert tokens.shape[1] == batch["input_ids"].shape[1] + 3
    assert len(calls) == wanted["num_insertions"], "once at each insertion point, in the prompt alone"
