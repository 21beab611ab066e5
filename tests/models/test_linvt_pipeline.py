"""LinVT from end to end: pipeline, command line, training through TRL with a LoRA, a checkpoint folder, shots."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from tiny_linvt import MODULE, NUM_FRAMES, make_linvt
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from trl import SFTConfig, SFTTrainer

from hf_videollm import LinVTForCausalLM, LinVTProcessor, VideoTextToTextPipeline, load_pipeline, save_checkpoint
from hf_videollm.models.errors import MissingBackend
from hf_videollm.models.transformers_compat import rename_checkpointing
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.training.caches.frames import FrameCache
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.sft import Recipe, make_trainer

GREEDY = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": 6}}
QUESTION = "What moves?"


@pytest.fixture(scope="module")
def pipe(tiny_linvt_checkpoint: str) -> VideoTextToTextPipeline:
    return pipeline("video-text-to-text", model=tiny_linvt_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def answer(result: list[dict[str, Any]]) -> str:
    return result[0]["generated_text"]


def chat(*blocks: dict[str, Any], text: str = QUESTION) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def written(model: Any, inputs: Any, count: int = 6) -> list[int]:
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=count)
    return tokens[0, inputs["input_ids"].shape[1] :].tolist()


# The pipeline


def test_the_pipeline_asks_as_the_processor_does(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    inputs = pipe.processor.apply_chat_template(
        chat({"type": "video", "path": clips[0]}),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    expected = pipe.processor.decode(written(pipe.model, inputs), skip_special_tokens=True)
    assert answer(pipe(clips[0], text=QUESTION, **GREEDY)).strip() == expected.strip()
    assert len({answer(pipe(clip, text=QUESTION, **GREEDY)) for clip in clips}) > 1


def test_a_batch_of_everything_equals_single_calls(
    pipe: VideoTextToTextPipeline, clips: list[str], picture: Image.Image
) -> None:
    samples = [
        {"videos": [clips[0], clips[1]], "text": "Which?"},
        {"text": "Hello there"},
        {"videos": clips[2], "images": picture, "text": "What is it that moves here?"},
        {"images": [picture, picture], "text": "How many?"},
        # Without known times, beside rows with them.
        {"videos": np.zeros((5, 40, 40, 3), dtype=np.uint8), "text": "What?"},
    ]
    alone = [pipe(sample, **GREEDY) for sample in samples]
    assert len({answer(result) for result in alone}) == len(samples)
    assert pipe(samples, batch_size=5, **GREEDY) == alone
    assert pipe(samples, batch_size=2, **GREEDY) == alone
    chats = [chat({"type": "video", "path": clip}, text=text) for clip, text in zip(clips, "abc", strict=True)]
    assert pipe(chats, batch_size=3, **GREEDY) == [pipe(one, **GREEDY) for one in chats]


def test_images_are_answered_as_by_the_image_llm(
    pipe: VideoTextToTextPipeline, tiny_image_llm: str, picture: Image.Image
) -> None:
    plain = pipeline("image-text-to-text", model=tiny_image_llm, device="cpu")
    options = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": 6}}
    messages = chat({"type": "image", "image": picture})
    assert answer(pipe(messages, **GREEDY)) == answer(plain(text=messages, **options))


def test_options_of_a_call(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    turns = [
        *chat({"type": "video", "path": clips[0]}, text="What?"),
        {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]},
        *chat(text="And why does it go there?"),
    ]
    by_first, by_last = pipe(turns, **GREEDY), pipe(turns, recondition=True, **GREEDY)
    assert pipe(turns, questions=["What?"], **GREEDY) == by_first
    assert pipe(turns, questions=["And why does it go there?"], **GREEDY) == by_last
    # Greedy words of a random model may be equal; what it is given must not.
    rows = [
        pipe.preprocess({"messages": turns}, processor_kwargs={"recondition": last})["row"] for last in (False, True)
    ]
    assert [row["question_input_ids"].shape[1] for row in rows] == [len("What?"), len("And why does it go there?")]
    assert pipe(clips[0], text=QUESTION, num_frames=1, **GREEDY) != pipe(clips[0], text=QUESTION, **GREEDY)


def test_options_of_generation_reach_generate(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    """Written beside options of videos, which they must not push aside."""
    before, forward, _ = pipe._sanitize_parameters(num_frames=2, do_sample=False, num_beams=2, max_new_tokens=6)
    assert before == {"processor_kwargs": {"num_frames": 2}}
    assert forward["generate_kwargs"] == {"do_sample": False, "num_beams": 2, "max_new_tokens": 6}
    plain = {"return_full_text": False, "num_frames": 2}
    expected = pipe(clips[0], text=QUESTION, generate_kwargs={"num_beams": 3, "max_new_tokens": 6}, **plain)
    assert pipe(clips[0], text=QUESTION, num_beams=3, max_new_tokens=6, **plain) == expected


def test_a_prompt_of_ones_own(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    raw = f"USER: <video>\n{QUESTION} ASSISTANT:"
    assert pipe(clips[0], text=raw, questions=QUESTION, **GREEDY) == [
        {"input_text": raw, "generated_text": answer(pipe(clips[0], text=QUESTION, **GREEDY))}
    ]
    with pytest.warns(UserWarning, match="was given none"):
        pipe(clips[0], text=raw, **GREEDY)


def test_without_a_chat_template_the_text_is_the_question(tiny_linvt_checkpoint: str, clips: list[str]) -> None:
    model = LinVTForCausalLM.from_pretrained(tiny_linvt_checkpoint)
    processor = LinVTProcessor.from_pretrained(tiny_linvt_checkpoint)
    processor.chat_template = None
    pipe = pipeline("video-text-to-text", model=model, processor=processor, tokenizer=processor.tokenizer)
    inputs = processor(text=f"<video>{QUESTION}", videos=clips[0], questions=[QUESTION], return_tensors="pt")
    expected = processor.decode(written(model, inputs), skip_special_tokens=True)
    assert answer(pipe(clips[0], text=QUESTION, **GREEDY)).strip() == expected.strip()


def test_times_keep_their_precision_in_a_lower_one(tiny_linvt_checkpoint: str, clips: list[str]) -> None:
    pipe = pipeline("video-text-to-text", model=tiny_linvt_checkpoint, dtype=torch.bfloat16, device="cpu")
    row = pipe.preprocess({"videos": clips[0], "text": QUESTION})["row"]
    assert row["pixel_values_videos"].dtype == torch.bfloat16
    assert row["video_frame_times"].dtype == torch.float32
    assert isinstance(answer(pipe(clips[0], text=QUESTION, **GREEDY)), str)


# The command line


def test_command_line(cli: Callable[..., tuple[int, str, str]], tiny_linvt_checkpoint: str, clips: list[str]) -> None:
    pipe = load_pipeline(tiny_linvt_checkpoint)
    for command, text in (("ask", QUESTION), ("caption", None)):
        arguments = [clips[0], *([text] if text else ["--prompt", "Tell."]), "--model", tiny_linvt_checkpoint]
        code, out, err = cli(command, *arguments, "--max-new-tokens", "6", "--json")
        assert code == 0, err
        expected = answer(pipe(clips[0], text=text or "Tell.", **GREEDY)).strip()
        assert json.loads(out)["answer"] == expected


def test_command_line_with_shots(
    cli: Callable[..., tuple[int, str, str]], tiny_linvt_checkpoint: str, two_shots: str
) -> None:
    pipe = load_pipeline(tiny_linvt_checkpoint)
    code, out, err = cli(
        "ask", two_shots, QUESTION, "--model", tiny_linvt_checkpoint, "--sampling", "shots", "--max-new-tokens", "6"
    )
    assert code == 0, err
    assert out.strip() == answer(pipe(two_shots, text=QUESTION, sampling="shots", **GREEDY)).strip()
    code, _, err = cli("ask", two_shots, QUESTION, "--sampling", "shots")
    assert code == 2
    assert "leave out --sampling" in err


# Shots


@pytest.fixture(scope="module")
def two_shots(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A clip of 24 dark frames, and 6 bright ones."""
    frames = np.full((30, 48, 48, 3), 20, dtype=np.uint8)
    frames[24:] = (250, 250, 60)
    folder = tmp_path_factory.mktemp("shots")
    return str(write_frames(folder / "two.mp4", frames))


def write_frames(path: Path, frames: np.ndarray) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


def test_shots_are_found_and_each_has_its_frames(tiny_linvt_checkpoint: str, two_shots: str) -> None:
    """With PySceneDetect itself: of four frames three stand in the long shot and one in the short; else not."""
    video_processor = AutoProcessor.from_pretrained(tiny_linvt_checkpoint).video_processor
    (by_shots,) = video_processor.read_frames(two_shots, num_frames=4, sampling="shots")
    assert list(by_shots.metadata.frames_indices) == [4, 12, 20, 27]
    assert by_shots.times == pytest.approx([0.4, 1.2, 2.0, 2.7])
    (uniform,) = video_processor.read_frames(two_shots, num_frames=4)
    assert list(uniform.metadata.frames_indices) == [3, 11, 18, 26]
    # A checkpoint may ask for it, and a call for the opposite.
    video_processor.sampling = "shots"
    for options, expected in (({}, by_shots), ({"sampling": "uniform"}, uniform)):
        (found,) = video_processor.read_frames(two_shots, **options)
        assert torch.equal(found.frames, expected.frames)


def test_any_function_may_find_shots(tiny_linvt_checkpoint: str, two_shots: str) -> None:
    processor = AutoProcessor.from_pretrained(tiny_linvt_checkpoint)
    seen = []

    def find(video: Any) -> list[tuple[int, int]]:
        seen.append(video)
        return [(0, 2), (2, 30)]

    options = {"sampling": "shots", "find_shots": find, "num_frames": 2}
    batch = processor.apply_chat_template(
        chat({"type": "video", "path": two_shots}),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )
    assert seen == [two_shots]
    assert batch["video_frame_times"].tolist() == [[pytest.approx(0.1), pytest.approx(1.6)]]
    frames = np.zeros((8, 40, 40, 3), dtype=np.uint8)
    (found,) = processor.video_processor.read_frames(
        [frames], **options | {"find_shots": lambda video: [(0, len(video))]}
    )
    assert list(found.metadata.frames_indices) == [2, 6]


def test_errors_of_shots(tiny_linvt_checkpoint: str, two_shots: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video_processor = AutoProcessor.from_pretrained(tiny_linvt_checkpoint).video_processor
    with pytest.raises(ValueError, match="sampling must be one of uniform, shots, not 'random'"):
        video_processor.read_frames(two_shots, sampling="random")
    with pytest.raises(ValueError, match="leave out start, end"):
        video_processor.read_frames(two_shots, sampling="shots", start=0.1, end=1.0)
    monkeypatch.setitem(__import__("sys").modules, "scenedetect", None)
    with pytest.raises(MissingBackend, match=r'pip install "hf-videollm\[shots\]"'):
        video_processor.read_frames(two_shots, sampling="shots")


# Training


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(generate_dataset(tmp_path_factory.mktemp("pool") / "clips", 6, kind="motion", progress=False))


def options_of_training(folder: Path, **options: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        **options,
    }


def test_the_collator_asks_as_the_pipeline_does(tiny_linvt_checkpoint: str, clips: list[str], tmp_path: Path) -> None:
    """The same question, the same frames, the same times: from files, and from a cache."""
    processor = LinVTProcessor.from_pretrained(tiny_linvt_checkpoint)
    said = {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]}
    rows = [
        {"messages": [*chat({"type": "video", "path": clip}, text=text), said, *chat(text="And why?"), said]}
        for clip, text in zip(clips, ("What?", "Which one moves?", "How many?"), strict=True)
    ]
    batch = VideoDataCollator(processor)(rows)
    learned = ["".join(processor.tokenizer.convert_ids_to_tokens(row[row >= 0].tolist())) for row in batch["labels"]]
    assert learned == ["A circle.</s>A circle.</s>"] * 3
    for index, row in enumerate(rows):
        inputs = processor.apply_chat_template(
            row["messages"][:1], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        mask = batch["question_attention_mask"][index].bool()
        assert torch.equal(batch["question_input_ids"][index][mask], inputs["question_input_ids"][0])
        assert torch.equal(batch["video_frame_times"][index], inputs["video_frame_times"][0])
        frames = batch["pixel_values_videos"][NUM_FRAMES * index : NUM_FRAMES * (index + 1)]
        assert torch.equal(frames, inputs["pixel_values_videos"])
    cache = FrameCache.build(clips, processor.video_processor, tmp_path, progress=False)
    cached = VideoDataCollator(processor, frames=cache)(rows)
    assert cached.keys() == batch.keys()
    for name, value in batch.items():
        torch.testing.assert_close(cached[name], value, msg=name)


def test_stage_one_trains_linvt_alone(tiny_image_llm: str, records: str, tmp_path: Path) -> None:
    model, processor = make_linvt(tiny_image_llm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(
        records=records,
        frame_cache=str(tmp_path / "cache"),
        trainable=[r"^model\.linvt\."],
        arguments=options_of_training(tmp_path / "out"),
    )
    trainer = make_trainer(recipe, model, processor)
    trainer.train()
    # The loss of TRL goes by the base model and the head: it must see LinVT, down to the scorer.
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("model.linvt.") for name in changed)
    assert any(".svr." in name for name in changed)
    assert any("queries" in name for name in changed)
    assert any("aggregator" in name for name in changed)


def test_stage_two_trains_linvt_and_a_lora(tiny_image_llm: str, records: str, tmp_path: Path) -> None:
    """PEFT on the language model, LinVT beside it as a module to save; gradients reach both, and it all reloads."""
    model, processor = make_linvt(tiny_image_llm)
    lora = LoraConfig(
        r=2, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|v_proj)", modules_to_save=["linvt"]
    )
    rows = make_trainer(
        Recipe(records=records, arguments=options_of_training(tmp_path)), model, processor
    ).train_dataset
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **options_of_training(tmp_path, remove_unused_columns=False, max_length=None, bf16=False),
            **rename_checkpointing({"gradient_checkpointing": False}),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(list(rows)),
        data_collator=VideoDataCollator(processor),
        processing_class=processor,
        peft_config=lora,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch).backward()
    reached = {name for name, value in trainer.model.named_parameters() if value.grad is not None and value.grad.any()}
    trainable = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert reached <= trainable
    assert {"lora" if "lora_" in name else "linvt" for name in reached} == {"lora", "linvt"}
    assert not any("original_module" in name or "vision_tower" in name for name in trainable)
    # lora_A waits for lora_B, which begins with zeros. A shift of all keys, or of all scores, cancels in the softmax:
    # whether rounding leaves these biases a gradient differs from machine to machine.
    silent = trainable - reached
    assert all("lora_A" in name or name.endswith(("k_proj.bias", "svr.score.bias")) for name in silent), silent
    trainer.train()
    merged = trainer.model.merge_and_unload()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        trained = merged.eval()(**inputs).logits
    folder = save_checkpoint(merged, processor, tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(AutoModelForImageTextToText.from_pretrained(folder)(**inputs).logits, trained)
        assert (model.from_image_llm(tiny_image_llm, linvt_config=MODULE)(**inputs).logits - trained).abs().max() > 1e-3


# Checkpoints


def test_a_processor_with_another_number_of_placeholders_is_refused(tiny_image_llm: str, tmp_path: Path) -> None:
    model, _ = make_linvt(tiny_image_llm)
    processor = LinVTProcessor.from_image_llm(tiny_image_llm, num_frames=NUM_FRAMES)
    with pytest.raises(ValueError, match="tokens of 4 frames is 112, the model's 7"):
        save_checkpoint(model, processor, tmp_path / "out")


def test_an_adapter_alone_has_its_processor(tiny_image_llm: str, clips: list[str], tmp_path: Path) -> None:
    """`adapter_only` beside the processor's files: both are found in one folder."""
    model, processor = make_linvt(tiny_image_llm)
    model.save_pretrained(tmp_path, adapter_only=True)
    processor.save_pretrained(tmp_path)
    again = LinVTForCausalLM.from_adapter(tmp_path)
    inputs = AutoProcessor.from_pretrained(tmp_path).apply_chat_template(
        chat({"type": "video", "path": clips[0]}), tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
