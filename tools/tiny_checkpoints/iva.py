"""Make the small IVA of the package, and measure it on long videos with the adapter and without.

    python tools/tiny_checkpoints/iva.py data                       # videos, vision tower, features: once
    python tools/tiny_checkpoints/iva.py train --seed 0              # one run; likewise seeds 1 and 2
    python tools/tiny_checkpoints/iva.py train --seed 0 --without-iva
    python tools/tiny_checkpoints/iva.py finish                     # save one of the runs, write what was measured
    python tools/tiny_checkpoints/iva.py evaluate                   # measure the shipped one again
    python tools/tiny_checkpoints/iva.py plot                       # draw the selector's attention over time

Everything is resumable. Runs with and without IVA have the same vision tower and the same initial weights of all parts
that both have; they take the same number of steps on the same videos and questions in the same order.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import (
    ASSETS,
    REPOSITORY,
    count_parameters,
    last_checkpoint,
    load_checkpoint,
    provenance,
    stage_folder,
    write_asset,
    write_record,
)
from safetensors.torch import load_file, save_file
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_videollm.data.records import read_jsonl
from hf_videollm.models.modeling_iva import IvaForConditionalGeneration
from hf_videollm.synthetic.check import Answer, ClipQuestion, accuracies, answer_questions, one_answer
from hf_videollm.synthetic.long import (
    LONG_FRAMES,
    LONG_KINDS,
    SHORT_FRAMES,
    STILL_FRAMES,
    Shot,
    generate_long_dataset,
    held_out_long_questions,
    long_questions,
    make_long_scene,
    write_long_mp4,
)
from hf_videollm.synthetic.scene import SPLIT_SEEDS
from hf_videollm.synthetic.tiny.iva import build_tiny_iva, train_tower
from hf_videollm.training.caches.features import (
    BlankFrames,
    FeatureCache,
    FeatureCollator,
    reads_features,
    tower_features,
)
from hf_videollm.training.collator import CACHED_FRAMES_KWARGS
from hf_videollm.training.resume import steps_of
from hf_videollm.training.sft import load_recipe, make_trainer

# Recipe of each stage -> folder of its videos, their lengths and their number.
STAGES: dict[str, tuple[str, tuple[int, int], int]] = {
    "iva/stills": ("stills", STILL_FRAMES, 6_000),
    "iva/short": ("short", SHORT_FRAMES, 3_000),
    "iva/videos": ("long", LONG_FRAMES, 2_000),
}
QUESTIONS_PER_VIDEO = 6
SEEDS = (0, 1, 2)
# Videos from whose shots the tower learns.
TOWER_VIDEOS = 2_500
DETAIL_KINDS = ("detail_shape", "detail_colour")
ASSET = ASSETS / "iva-tiny"

NOTES = """# The small IVA of this package

{parameters} parameters, {adapter} of them in the adapter. It can answer questions about long synthetic videos of
coloured shapes only. It lets users try everything offline, and tests show with it what the adapter improves.

A video lasts one or two minutes and has one frame per second. It has four to six events of two or three seconds. Each
shows four small shapes on a backdrop of one colour; a question names the backdrop and one property of one shape ("What
shape is red on purple?"). Each frame becomes two tokens, as in the paper.

Made by `python tools/tiny_checkpoints/iva.py` (`data`, `train`, `finish`). First, a CLIP tower of three layers is
trained to predict colour and form from the patches and the backdrop from the class token; its features are kept
uncorrelated. Then it is frozen, and its features are stored in half precision. The rest is trained from random weights
with TRL's SFTTrainer, without LoRA, in three stages, with the steps and learning rates of the recipes in
`hf_videollm/synthetic/recipes`:

1. `{stages[0]}`: videos of a single frame;
2. `{stages[1]}`: videos of 8 to 16 seconds with two or three events;
3. `{stages[2]}`: videos of 60 to 120 seconds, six questions in one conversation.

The adapter has one pair of selector and interactor instead of the paper's four, before layers {layers} of the four of
the language model, and {queries} query tokens before every answer; its unscaled products are small at first
(`synthetic/tiny/iva.py`). All other settings are the paper's, such as tau = 0.5.

There are six runs: three seeds with IVA, and the same three seeds without (`num_insertions=0`: no adapter, no query
tokens). Both have the same tower, the same other initial weights, the same number of steps, and the same videos and
questions in the same order. The bundled model is {run}, whose final training loss was the lowest of the three with IVA.

Measured on {questions} questions, each about a different video of the split `{split}` (their seeds are not used in
training), answered by `generate`; an answer is right if it is exactly the expected one. The six runs read stored
features of the tower. Numbers and library versions are in `accuracy.json`; the command was `{command}`.

{table}

The last row is the accuracy of always giving the most frequent answer. Means over the seeds differ by **{difference}
points** for questions about details. The bundled model, which is loaded from this folder and gets the MP4 files,
answers {files} of them correctly.

Of the selector's attention, {attention} (before layers {layers}, mean over query tokens and questions about details) is
on the frames of the event that the question is about. These frames are {even} of the frames.
"""

app = typer.Typer(help=__doc__, add_completion=False)
Work = Annotated[Path, typer.Option(help="Folder for videos, features and training checkpoints.")]
WORK = Path("runs/iva")
Threads = Annotated[int, typer.Option(help="CPU threads.")]


def run_folder(work: Path, seed: int, with_iva: bool) -> Path:
    """Folder of one run."""
    return work / f"{'iva' if with_iva else 'without'}-{seed}"


def build(work: Path, seed: int, with_iva: bool) -> tuple[Any, Any]:
    """Untrained model with the trained tower, and its processor."""
    model, processor = build_tiny_iva(seed, **({} if with_iva else {"num_insertions": 0}))
    model.model.vision_tower.load_state_dict(load_file(work / "tower.safetensors"))
    return model, processor


def features_of(work: Path, name: str, paths: Sequence[str]) -> FeatureCache:
    """Features of videos, of the tower that all runs share."""
    model, processor = build(work, 0, with_iva=True)
    return FeatureCache.build(paths, model.eval(), processor.video_processor, work / name)


def held_out(work: Path, per_kind: int, split: str) -> list[ClipQuestion]:
    """Long videos of a split that is not trained on, with one question each; files that are missing are written."""
    clips = []
    for scene, question in held_out_long_questions(per_kind, split):
        path = work / f"held_out_{split}" / f"{scene.seed:07d}.mp4"
        clips.append(ClipQuestion(path if path.exists() else write_long_mp4(scene, path), question))
    return clips


@app.command()
def data(work: Work = WORK, threads: Threads = 1) -> None:
    """Write the training videos, train the vision tower, and store its features."""
    torch.set_num_threads(threads)
    records = {}
    for name, lengths, number in STAGES.values():
        records[name] = generate_long_dataset(work / name, number, 0, lengths, QUESTIONS_PER_VIDEO)
    if not (work / "tower.safetensors").exists():
        model, _ = build_tiny_iva()
        scenes = [make_long_scene(seed, SHORT_FRAMES) for seed in range(TOWER_VIDEOS)]
        print("tower, held-out frames:", train_tower(model.model.vision_tower, scenes))
        save_file(model.model.vision_tower.state_dict(), work / "tower.safetensors")
    for name, path in records.items():
        features_of(work, name, [video for record in read_jsonl(path) for video in record.media()])


@app.command()
def train(
    work: Work = WORK,
    seed: Annotated[int, typer.Option(help="Decides the initial weights and the order of the data.")] = 0,
    without_iva: Annotated[bool, typer.Option("--without-iva", help="The same model without adapter.")] = False,
    per_kind: Annotated[int, typer.Option(help="Held-out questions of each kind.")] = 100,
    split: Annotated[str, typer.Option(help="Videos to measure on: test, or validation for decisions.")] = "test",
    threads: Threads = 1,
) -> None:
    """Train and measure one run; goes on from its last training checkpoint."""
    torch.set_num_threads(threads)
    model, processor = build(work, seed, not without_iva)
    folder = run_folder(work, seed, not without_iva)
    print(f"{folder.name}: {count_parameters(model)} parameters", flush=True)
    for stage, (name, _, _) in STAGES.items():
        records = work / name / "records.jsonl"
        videos = [video for record in read_jsonl(records) for video in record.media()]
        model = run_stage(
            stage, model, processor, records, features_of(work, name, videos), stage_folder(folder, stage), seed
        )
    clips = held_out(work, per_kind, split)
    features = features_of(work, f"held_out_{split}_features", [str(clip.path) for clip in clips])
    answers = answer_from_features(model, processor, features, clips)
    result = {"seed": seed, "with_iva": not without_iva, "accuracy": accuracies(answers), "details": details(answers)}
    (folder / f"accuracy_{split}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(result)


def run_stage(
    stage: str, model: Any, processor: Any, records: Path, features: FeatureCache, folder: Path, seed: int
) -> Any:
    """Train with a recipe of the package on stored features; go on from its last checkpoint.

    Returns:
        The trained model.
    """
    recipe = load_recipe(stage)
    arguments = {**recipe.arguments, "output_dir": str(folder), "seed": seed}
    trainable = recipe.trainable or []
    if not model.config.num_insertions:
        trainable = [pattern for pattern in trainable if "adapter" not in pattern]
    recipe = replace(recipe, records=str(records), arguments=arguments, trainable=trainable)
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint is not None and steps_of(checkpoint) >= arguments["max_steps"]:
        return type(model).from_pretrained(checkpoint)
    set_seed(seed)
    trainer = make_trainer(recipe, model, processor)
    trainer.data_collator = FeatureCollator(processor, features=features)
    started = time.time()
    with reads_features(model):
        trainer.train(resume_from_checkpoint=checkpoint)
    print(f"{stage}: step {trainer.state.global_step}, this run took {time.time() - started:.0f} s", flush=True)
    return trainer.model


@torch.no_grad()
def answer_from_features(
    model: Any, processor: Any, features: FeatureCache, clips: Sequence[ClipQuestion], batch_size: int = 25
) -> list[Answer]:
    """As `answer_questions`, with stored features of the tower instead of files."""
    model.eval()
    answers = []
    for start in range(0, len(clips), batch_size):
        batch = clips[start : start + batch_size]
        inputs = inputs_from_features(processor, features, batch)
        with reads_features(model):
            generated = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        texts = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers += [Answer(clip, text) for clip, text in zip(batch, texts, strict=True)]
    return answers


def inputs_from_features(processor: Any, features: FeatureCache, clips: Sequence[ClipQuestion]) -> Any:
    """Prompts for `generate`, with stored features of the tower in place of pixel values."""
    videos, blanks = [str(clip.path) for clip in clips], BlankFrames(features)
    contents = [
        [{"type": "video", "video": blanks[video]}, {"type": "text", "text": clip.question.question}]
        for video, clip in zip(videos, clips, strict=True)
    ]
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}] for content in contents],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", "videos_kwargs": CACHED_FRAMES_KWARGS},
    )
    inputs["pixel_values_videos"] = tower_features(features, videos)
    return inputs


def details(answers: Sequence[Answer]) -> float:
    """Share of right answers to all questions of detail."""
    return statistics.fmean(answer.is_right for answer in answers if answer.clip.question.kind in DETAIL_KINDS)


@torch.no_grad()
def attention_on_event(
    model: Any, processor: Any, features: FeatureCache, clips: Sequence[ClipQuestion]
) -> list[float]:
    """Share of the selector's attention that lies on the frames of the event asked about, at each insertion point.

    Means over the pairs, the query tokens and the questions of detail.
    """
    model.eval()
    shares = []
    for clip in clips:
        if clip.question.kind in DETAIL_KINDS:
            with reads_features(model):
                inputs = inputs_from_features(processor, features, [clip])
                (weights,) = model.model.get_frame_attentions(**inputs)
            shares.append(weights[..., list(event_of(clip).frames)].sum(-1).mean((1, 2)))
    return [round(share, 4) for share in torch.stack(shares).mean(0).tolist()]


def event_of(clip: ClipQuestion) -> Shot:
    """The event that a question of detail is about."""
    return make_long_scene(int(clip.path.stem)).event(clip.question.question.rstrip("?").split(" on ")[-1])


def collect_runs(work: Path, split: str) -> list[dict[str, Any]]:
    """What was measured of all runs; those with IVA first."""
    names = [
        run_folder(work, seed, with_iva) / f"accuracy_{split}.json" for with_iva in (True, False) for seed in SEEDS
    ]
    missing = [str(name) for name in names if not name.exists()]
    if missing:
        raise FileNotFoundError(f"Not all runs are finished: {', '.join(missing)} missing.")
    return [json.loads(name.read_text(encoding="utf-8")) for name in names]


def last_loss(folder: Path) -> float:
    """Loss of the last logged steps of a run, by which the shipped one is chosen without a look at the test."""
    state = json.loads((last_checkpoint(folder, list(STAGES)[-1]) / "trainer_state.json").read_text(encoding="utf-8"))
    return float([entry["loss"] for entry in state["log_history"] if "loss" in entry][-1])


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the seeds of the questions of detail, with and without IVA, and their difference in points."""
    means = {
        name: statistics.fmean(run["details"] for run in runs if run["with_iva"] == name) for name in (True, False)
    }
    return {
        "with_iva": round(means[True], 4),
        "without_iva": round(means[False], 4),
        "difference_in_points": round(100 * (means[True] - means[False]), 1),
    }


def table(result: dict[str, Any]) -> str:
    """Accuracies of all runs in Markdown."""
    rows = [f"| run | {' | '.join(LONG_KINDS)} | both of detail |", f"|---|{'---|' * (len(LONG_KINDS) + 1)}"]
    for run in result["runs"]:
        name = f"{'IVA' if run['with_iva'] else 'without IVA'}, seed {run['seed']}"
        shares = [*(run["accuracy"][kind] for kind in LONG_KINDS), run["details"]]
        rows.append(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    for name in ("with_iva", "without_iva"):
        runs = [run for run in result["runs"] if run["with_iva"] == (name == "with_iva")]
        shares = [statistics.fmean(run["accuracy"][kind] for run in runs) for kind in LONG_KINDS]
        shares.append(result["mean"][name])
        title = "mean with IVA" if name == "with_iva" else "mean without IVA"
        rows.append(f"| {title} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    shares = [result["one_answer"][kind] for kind in LONG_KINDS]
    rows.append(f"| one answer | {' | '.join(f'{share:.1%}' for share in shares)} | |")
    return "\n".join(rows)


def measure_files(folder: Path, clips: Sequence[ClipQuestion], batch_size: int = 10) -> list[Answer]:
    """Answers of a finished checkpoint, loaded as users load it and shown the MP4 files."""
    model, processor = load_checkpoint(folder)
    return answer_questions(model, processor, clips, batch_size)


@app.command()
def finish(
    work: Work = WORK,
    per_kind: Annotated[int, typer.Option(help="Held-out questions of each kind.")] = 100,
    split: Annotated[str, typer.Option(help="Videos that the runs were measured on.")] = "test",
    output: Annotated[Path, typer.Option(help="Folder of the finished checkpoint.")] = ASSET,
    threads: Threads = 1,
) -> None:
    """Save the run with IVA whose training loss ended lowest, and write down what all runs reach."""
    torch.set_num_threads(threads)
    runs = collect_runs(work, split)
    folder = min((run_folder(work, seed, True) for seed in SEEDS), key=last_loss)
    model = IvaForConditionalGeneration.from_pretrained(last_checkpoint(folder, list(STAGES)[-1]))
    processor = build_tiny_iva()[1]
    write_asset(model, processor, list(STAGES), folder, output)
    clips = held_out(work, per_kind, split)
    features = features_of(work, f"held_out_{split}_features", [str(clip.path) for clip in clips])
    answers = measure_files(output, clips)
    result = {
        "split": split,
        "questions": len(clips),
        "shipped": {"run": folder.name, "accuracy": accuracies(answers), "details": details(answers)},
        "runs": runs,
        "mean": summarise(runs),
        "one_answer": {kind: one_answer(kind, clips) for kind in LONG_KINDS},
        "insertion_layers": model.config.insertion_layers,
        "attention_on_event": attention_on_event(model, processor, features, clips),
        "share_of_its_frames": round(share_of_frames(clips), 4),
        **provenance(),
    }
    page = NOTES.format(
        parameters=count_parameters(model),
        adapter=count_parameters(model.model.adapter),
        table=table(result),
        difference=result["mean"]["difference_in_points"],
        run=folder.name,
        files=f"{result['shipped']['details']:.1%}",
        stages=list(STAGES),
        layers=", ".join(map(str, result["insertion_layers"])),
        queries=model.config.num_query_tokens,
        attention=", ".join(f"{share:.0%}" for share in result["attention_on_event"]),
        even=f"{result['share_of_its_frames']:.1%}",
        **{key: result[key] for key in ("questions", "split", "command")},
    )
    write_record(output, result, page, folder)
    print(page)
    print({key: result[key] for key in ("attention_on_event", "share_of_its_frames")})


def share_of_frames(clips: Sequence[ClipQuestion]) -> float:
    """What attention that is spread evenly over a video would lay on the frames asked about."""
    asked = [clip for clip in clips if clip.question.kind in DETAIL_KINDS]
    lengths = [make_long_scene(int(clip.path.stem)).num_frames for clip in asked]
    return statistics.fmean(event_of(clip).num_frames / length for clip, length in zip(asked, lengths, strict=True))


@app.command()
def evaluate(
    work: Work = WORK,
    per_kind: Annotated[int, typer.Option(help="Held-out questions of each kind.")] = 100,
    split: Annotated[str, typer.Option(help="Videos to measure on.")] = "test",
    output: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = ASSET,
    threads: Threads = 1,
) -> None:
    """Measure a finished checkpoint on MP4 files."""
    torch.set_num_threads(threads)
    answers = measure_files(output, held_out(work, per_kind, split))
    print({"accuracy": accuracies(answers), "details": details(answers), **provenance()})


@app.command()
@torch.no_grad()
def plot(
    video_seed: Annotated[int, typer.Option(help="Which held-out video to ask about.")] = SPLIT_SEEDS["test"].start,
    picture: Annotated[Path, typer.Option(help="PNG file to write.")] = REPOSITORY / "docs/measured/iva_attention.png",
    output: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = ASSET,
) -> None:
    """Draw the selector's attention over time for one question about each event of a video (needs matplotlib)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scene = make_long_scene(video_seed)
    model, processor = load_checkpoint(output)
    figure, panels = pyplot.subplots(
        len(scene.events), figsize=(10, 1.8 * len(scene.events)), layout="constrained", sharex=True, sharey=True
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write_long_mp4(scene, Path(folder) / f"{video_seed:07d}.mp4")
        for asked, axes in zip(scene.events, panels, strict=True):
            ending = f" on {asked.name}?"
            question = next(question for question in long_questions(scene) if question.question.endswith(ending))
            (answer,) = answer_questions(model, processor, [ClipQuestion(path, question)], progress=False)
            content = [{"type": "video", "path": str(path)}, {"type": "text", "text": question.question}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            (weights,) = model.model.get_frame_attentions(**inputs)
            for layer, curve in zip(model.config.insertion_layers, weights.mean((1, 2)), strict=True):
                axes.plot(curve, linewidth=0.8, alpha=0.7, label=f"before layer {layer}")
            axes.plot(weights.mean((0, 1, 2)), color="black", linewidth=1.6, label="mean")
            for event in scene.events:
                edges = (event.first_frame - 0.5, event.first_frame + event.num_frames - 0.5)
                axes.axvspan(*edges, color=event.backdrop, alpha=0.45 if event == asked else 0.12, linewidth=0)
            title = f"{question.question}  model: {answer.text.strip()}, truth: {question.answer}"
            axes.set_title(title, fontsize=10, loc="left")
            print(title)
    panels[0].legend(fontsize=7, ncols=5, loc="upper right")
    panels[-1].set(xlabel="frame = second", xlim=(0, scene.num_frames - 1))
    figure.supylabel("attention over frames", fontsize=10)
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    app()
