"""Compare the designs: the costs of a video at the sizes of the papers, and the answers of the bundled small models.

    python examples/compare_designs.py                                       # bundled models, a made-up clip
    python examples/compare_designs.py my.mp4 "What happens?" ./pllava-7b ./videollama2-7b-16f

The first table needs no weights. LinVT is not in it, because the operations of its image-LLM are known only when it
runs; `hf-videollm info --design linvt` counts its parameters.

With --train, all six designs are trained alike on synthetic clips, and what they learned is compared:

    python examples/compare_designs.py --train --out designs.md               # hours on a CPU; goes on after a stop
    python examples/compare_designs.py --train --steps 2 --clips 4 --per-kind 1
    python examples/compare_designs.py --train --designs linvt,ftfv          # only these, beside another run

What is measured of a design is kept in --work, and the page is written when all designs are there. Each design gets
the vision tower and the language model of the bundled PLLaVA, and new parts of its own, which start from random
weights. The tower is not trained, everything else is: with the same clips, order, steps and rates. Each trained model
is asked about held-out clips, about their frames in random order, and with another clip.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessor, LlamaForCausalLM
from transformers.utils import logging

import hf_videollm
from hf_videollm.build import build_checkpoint
from hf_videollm.costs.flops import count_flops
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.costs.presets import find_preset
from hf_videollm.designs import DESIGNS
from hf_videollm.evaluation.provenance import package_versions
from hf_videollm.known_models import find_model
from hf_videollm.models.video_llm_option_names import did_you_mean
from hf_videollm.synthetic.check import ClipQuestion, accuracies, answer_questions, held_out_clips, one_answer
from hf_videollm.synthetic.clips import generate_dataset, make_scene, questions_for, write_scene_mp4
from hf_videollm.training.recipe import Recipe
from hf_videollm.training.sft import run_sft

SIZES = ("pllava", "videollama2", "videollama2.1", "videollama2_av", "iva", "ftfv")
# Without `iva-tiny`, which was trained on long videos only (README, Long videos).
BUNDLED = ("pllava-tiny", "videollama2-av-tiny", "linvt-tiny", "ftfv-tiny")
SIDE = 64
NUM_FRAMES = 8
# IVA samples at a rate, and the clips last two to three seconds.
IVA_FPS = 3.0
# What a design needs besides, to be small: the sizes of the bundled checkpoints.
OPTIONS: dict[str, dict[str, Any]] = {
    "pllava": {"pooling_shape": [NUM_FRAMES, 4, 4]},
    "videollama2": {"connector_type": "stc_connector_v35", "connector_depth": 1},
    "videollama2_av": {"connector_type": "stc_connector_v35", "connector_depth": 1},
    "linvt": {"num_layers": 1, "num_queries": [32, 16, 8], "num_selected_tokens": 256, "pool_windows": [1, 2, 4]},
    "iva": {"num_query_tokens": 2, "num_insertions": 4, "adapter_hidden_size": 64, "causal_num_heads": 2},
    "ftfv": {"num_queries": 16, "num_tokens_per_frame": 4, "adapter_width": 128, "adapter_num_heads": 4},
}
CHAT = (
    "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)

# The text above the tables.
INTRODUCTION = """\
All designs have the vision tower and the language model of `pllava-tiny`, which is a PLLaVA trained on such clips, so
that only what lies between the two differs. These new parts start from random weights. They and the language model
are trained, the tower is not: with the same clips and questions in the same order, the same number of steps of 16
clips and the same learning rate (1e-3, cosine). Each design reads 8 frames of a clip (IVA: 3 a second, as it samples
at a rate). VideoLLaMA2-AV hears the tracks of the clips, too, but no question is about them. The questions are about
held-out clips; an answer is right if it is exactly the expected one. "CPU s" is the CPU time of the training on one
thread; it depends on the machine, so compare the designs. "One answer" is the accuracy of always giving the most
frequent answer (for `order`, the shape that the question names first).

PLLaVA has an advantage: the language model has read clips in its form before, for longer than in this training. One
seed and one set of rates were tried: a design that is behind here may need other rates or more steps, and nothing
here says how models of the papers' sizes compare. The bundled checkpoints were trained longer, each with its own
recipe."""


@dataclass
class Row:
    """What was measured of one trained design.

    Attributes:
        design: its name.
        parameters: all of them.
        new_parameters: those of the parts that start from random weights.
        tokens: that a clip adds to a prompt, mean over the held-out clips.
        seconds: CPU time of the training, reading of clips included.
        loss: mean of the last logged steps.
        accuracy: share of right answers for each kind of question.
        shuffled: the same, with the frames of each clip in random order.
        other_clip: the same, with another clip than the one that is asked about.
    """

    design: str
    parameters: int
    new_parameters: int
    tokens: float
    seconds: float
    loss: float
    accuracy: dict[str, float]
    shuffled: dict[str, float]
    other_clip: dict[str, float]


def write_parts(folder: Path) -> dict[str, Path]:
    """Write tower, language model and ears of the bundled checkpoints as folders of transformers."""
    places = {name: folder / name for name in ("vision", "language_model", "audio")}
    if all((place / "config.json").is_file() for place in places.values()):
        return places
    source = hf_videollm.default_checkpoint()
    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    model.model.vision_tower.save_pretrained(places["vision"])
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(places["vision"])
    text = LlamaForCausalLM(model.config.get_text_config())
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.save_pretrained(places["language_model"])
    processor.tokenizer.chat_template = CHAT
    processor.tokenizer.save_pretrained(places["language_model"])
    hears = AutoModelForImageTextToText.from_pretrained(hf_videollm.default_checkpoint("videollama2-av-tiny"))
    hears.model.audio_tower.save_pretrained(places["audio"])
    return places


def start(design: str, parts: dict[str, Path], folder: Path) -> tuple[Any, Any]:
    """Build a design from the parts, and load it with its processor."""
    if not (folder / "config.json").is_file():
        sources = {**parts} if design == "videollama2_av" else {k: v for k, v in parts.items() if k != "audio"}
        build_checkpoint(design, folder, overwrite=True, num_frames=NUM_FRAMES, **sources, **OPTIONS[design])
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    if design == "videollama2_av":
        # The clips last two to three seconds. Eight parts of two seconds of sound, as in the paper, or silence up to
        # thirty seconds would be many tokens without news.
        processor.audio_sampling = "contiguous"
        processor.feature_extractor.pad_with_silence = False
    if design == "iva":
        processor.video_processor.fps = IVA_FPS
    return model, processor


def train(model: Any, processor: Any, records: Path, folder: Path, steps: int) -> Any:
    """Train everything but the vision tower, in the same order for each design; returns the trainer."""
    # Frames are decoded once. Clips of different numbers of frames, which IVA reads, are not cached.
    cache = None if processor.video_processor.num_frames is None else str(folder.parent / "frames")
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(50, steps // 2),
        "logging_steps": max(1, steps // 20),
        "save_steps": max(1, steps // 5),
        "save_total_limit": 1,
        "seed": 0,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    trained = [*type(model.model).new_parts, "language_model"]
    recipe = Recipe(records=str(records), frame_cache=cache, merge_turns=True, trainable=trained, arguments=arguments)
    return run_sft(recipe, model, processor)


def measure(model: Any, processor: Any, clips: list[ClipQuestion]) -> dict[str, dict[str, float]]:
    """Share of right answers by kind: as it is, with shuffled frames, and with another clip."""
    others = [ClipQuestion(other.path, clip.question) for clip, other in zip(clips, clips[1:] + clips[:1], strict=True)]
    ask = {"accuracy": (clips, None), "shuffled": (clips, 0), "other_clip": (others, None)}
    return {
        name: accuracies(answer_questions(model, processor, asked, shuffle_seed=seed, progress=False))
        for name, (asked, seed) in ask.items()
    }


def count_tokens(processor: Any, clips: list[ClipQuestion]) -> float:
    """Tokens that a clip adds to a prompt, mean over the clips."""
    added = 0
    for clip in clips:
        text = {"type": "text", "text": clip.question.question}
        with_clip, alone = (
            processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
            )["input_ids"].shape[1]
            for content in ([{"type": "video", "path": str(clip.path)}, text], [text])
        )
        added += with_clip - alone
    return added / len(clips)


def compare(design: str, parts: dict[str, Path], records: Path, clips: list[ClipQuestion], options: Any) -> Row:
    """Build, train and measure one design."""
    built = options.work / "start" / design
    model, processor = start(design, parts, built)
    began = time.process_time()
    trainer = train(model, processor, records, options.work / "stages" / design, options.steps)
    seconds = time.process_time() - began
    sizes = describe_checkpoint(built, memory=False).parameters
    return Row(
        design=design,
        parameters=sizes["total"],
        new_parameters=sum(sizes.get(part, 0) for part in type(model.model).new_parts),
        tokens=count_tokens(processor, clips),
        seconds=round(seconds),
        loss=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1],
        **measure(trainer.model.eval(), processor, clips),
    )


def percentages(shares: dict[str, float]) -> list[str]:
    """Cells of a table: the shares, and their mean."""
    return [f"{share:.0%}" for share in (*shares.values(), sum(shares.values()) / len(shares))]


def page(rows: list[Row], clips: list[ClipQuestion], options: argparse.Namespace) -> str:
    """The page: costs, then right answers with and without what the designs need to answer."""
    sizes = f"--steps {options.steps} --clips {options.clips} --per-kind {options.per_kind}"
    costs = [
        [f"{row.tokens:.1f}", f"{row.parameters:,}", f"{row.new_parameters:,}", f"{row.seconds:,}", f"{row.loss:.3f}"]
        for row in rows
    ]
    kinds = [*rows[0].accuracy, "mean"]
    tables = {
        "What a clip and a training cost": (["tokens of a clip", "parameters", "new ones", "CPU s", "loss"], costs),
        "Right answers": (kinds, [percentages(row.accuracy) for row in rows]),
        "With the frames of each clip in random order": (kinds, [percentages(row.shuffled) for row in rows]),
        "With another clip than the one that is asked about": (kinds, [percentages(row.other_clip) for row in rows]),
    }
    trained_by = package_versions(("hf_videollm", "torch", "transformers", "trl"))
    versions = ", ".join(f"{name} {version}" for name, version in trained_by.items())
    command = f"python examples/compare_designs.py --train {sizes}"
    lines = ["# Six designs, trained alike", "", f"Written by `{command}` with", f"{versions}.", "", INTRODUCTION]
    for title, (head, cells) in tables.items():
        lines += ["", f"## {title}", "", f"| design | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
        lines += [f"| {DESIGNS[row.design].title} | {' | '.join(own)} |" for row, own in zip(rows, cells, strict=True)]
        if title == "Right answers":
            always = percentages({kind: one_answer(kind, clips) for kind in rows[0].accuracy})
            lines.append(f"| one answer | {' | '.join(always)} |")
    return "\n".join(lines) + "\n"


def train_and_compare(options: argparse.Namespace) -> None:
    """Train and compare; results of designs that are done are kept."""
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    parts = write_parts(options.work / "parts")
    records = generate_dataset(options.work / "clips", options.clips)
    clips = held_out_clips(options.work / "held_out", options.per_kind)
    files = {
        design: options.work / f"{design}-{options.steps}-{options.clips}-{options.per_kind}.json" for design in OPTIONS
    }
    for design in options.designs:
        if not files[design].is_file():
            files[design].write_text(json.dumps(asdict(compare(design, parts, records, clips, options))))
    if missing := [design for design, file in files.items() if not file.is_file()]:
        print(f"No page yet: {', '.join(missing)} are missing.")
        return
    text = page([Row(**json.loads(file.read_text())) for file in files.values()], clips, options)
    print(text) if options.out is None else options.out.write_text(text, encoding="utf-8")


def show_costs() -> None:
    """The first table: what one video costs at the sizes of the papers."""
    print(f"{'design':16}{'frames':>8}{'tokens':>8}{'TFLOPs':>8}{'cache, MB':>11}")
    for name in SIZES:
        preset = find_preset(name)
        cost = count_flops(preset.config(), lora_rank=preset.lora_rank)
        total, cache = cost.total.total / 1e12, cost.kv_cache_bytes / 1e6
        print(f"{name:16}{cost.num_frames:8}{cost.media_tokens:8,}{total:8.1f}{cache:11,.1f}")


def show_answers(video: str | None, question: str, models: list[str]) -> None:
    """The second table: what models answer."""
    with tempfile.TemporaryDirectory() as folder:
        right = ""
        if video is None:
            scene, video = make_scene(2_000_000, kind="motion"), os.path.join(folder, "clip.mp4")
            write_scene_mp4(scene, video)
            question, right = questions_for(scene)[-1].question, f" (right: {questions_for(scene)[-1].answer})"
        print(f"\n{question}{right}\n{'model':24}{'parameters':>12}{'tokens':>8}  answer")
        for name in models:
            pipe = hf_videollm.load_pipeline(name)
            facts = describe_checkpoint(find_model(name), memory=False)
            answer = pipe(video, text=question, return_full_text=False)[0]["generated_text"].strip()
            print(f"{name:24}{facts.parameters['total']:12,}{facts.tokens_per_video:8,}  {answer}")


def names_of_designs(given: str) -> list[str]:
    """The designs of the command line."""
    names = given.split(",")
    for name in names:
        if name not in OPTIONS:
            raise argparse.ArgumentTypeError(f"there is no design {name!r}: {did_you_mean(name, OPTIONS)}")
    return names


def main() -> None:
    """Print both tables, or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="a video; a made-up clip if omitted")
    parser.add_argument("question", nargs="?", default="What happens in the video?")
    parser.add_argument("models", nargs="*", default=BUNDLED, help="folders or Hub ids")
    parser.add_argument("--train", action="store_true", help="train all designs alike instead, and compare them")
    parser.add_argument("--work", type=Path, default=Path("runs/alike"), help="folder for clips and training")
    parser.add_argument(
        "--designs", type=names_of_designs, default=[*OPTIONS], help=f"only some of {','.join(OPTIONS)}, with commas"
    )
    parser.add_argument("--steps", type=int, default=1200, help="steps of 16 clips")
    parser.add_argument("--clips", type=int, default=4000, help="training clips")
    parser.add_argument("--per-kind", type=int, default=50, help="held-out questions of each kind")
    parser.add_argument("--out", type=Path, help="page to write; the screen by default")
    options = parser.parse_args()
    for name in () if options.train else ("work", "designs", "steps", "clips", "per_kind", "out"):
        if vars(options)[name] != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is for --train")
    logging.disable_progress_bar()
    if options.train:
        train_and_compare(options)
    else:
        show_costs()
        show_answers(options.video, options.question, options.models)


if __name__ == "__main__":
    main()
