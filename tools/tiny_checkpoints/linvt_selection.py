"""Measure what the scorer of the small LinVT contributes: which tokens it keeps, and which answers need them.

    python tools/tiny_checkpoints/linvt_selection.py --clips runs/held_out          # prints a table

Four scorers are compared, with the same weights everywhere else: the trained one; untrained ones of several seeds; the
trained one whose scores are put in a random order in each video; and one that prefers what the trained one drops.
"""

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import ASSETS, load_checkpoint
from torch import nn

from hf_videollm.models.linvt_module import LinVTModule
from hf_videollm.synthetic.check import ClipQuestion, accuracies, answer_questions, held_out_clips
from hf_videollm.synthetic.clips import Scene, make_scene
from hf_videollm.synthetic.scene import QA
from hf_videollm.synthetic.tiny.linvt import visible_sprites

BATCH_SIZE = 25
# Changes the scores `(videos, frames, positions)`.
Change = Callable[[torch.Tensor], torch.Tensor]


def asked_patches(scene: Scene, question: QA, frame: int, side: int) -> list[bool]:
    """Which patches of a frame have their centre inside the box of a shape that the question is about.

    Questions of order are about the shape that comes first, which is their answer; all others about all shapes.
    """
    boxes = [
        (x, y, sprite.radius)
        for sprite, (x, y) in visible_sprites(scene, frame)
        if question.kind != "order" or sprite.name == question.answer
    ]
    centres = [((column + 0.5) / side, (row + 0.5) / side) for row in range(side) for column in range(side)]
    return [any(max(abs(u - x), abs(v - y)) <= radius for x, y, radius in boxes) for u, v in centres]


@torch.no_grad()
def kept_shares(model: Any, processor: Any, clips: Sequence[ClipQuestion]) -> tuple[float, float]:
    """What the scorer keeps.

    Returns:
        The share of the patches of the shapes asked about that are kept, and the share of kept tokens that are such
        patches; both over all clips together.
    """
    kept = asked = both = 0
    for start in range(0, len(clips), BATCH_SIZE):
        chosen = clips[start : start + BATCH_SIZE]
        chats = [[{"role": "user", "content": [{"type": "video", "path": str(clip.path)}]}] for clip in chosen]
        inputs = processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
        )
        names = ("num_video_frames", "video_frame_times")
        frames = {name: value for name, value in inputs.items() if name in names or name.endswith("_videos")}
        for row, (clip, selection) in enumerate(zip(chosen, model.model.select_videos(**frames), strict=True)):
            scene = make_scene(int(clip.path.name.split("-")[0]))
            times = inputs["video_frame_times"][row][: int(inputs["num_video_frames"][row])]
            side = round(selection.scores.shape[2] ** 0.5)
            numbers = [min(round(time * scene.fps), scene.num_frames - 1) for time in times.tolist()]
            wanted = torch.tensor([asked_patches(scene, clip.question, number, side) for number in numbers]).flatten()
            indices = selection.indices[0][selection.mask[0]]
            kept += len(indices)
            asked += int(wanted.sum())
            both += int(wanted[indices].sum())
    return both / asked, both / kept


@contextmanager
def changed_scores(model: Any, change: Change) -> Iterator[None]:
    """Inside this context, the scores of the model's scorer are changed."""
    hook = model.model.linvt.svr.register_forward_hook(lambda module, inputs, scores: change(scores))
    try:
        yield
    finally:
        hook.remove()


def shuffler(seed: int) -> Change:
    """Puts the scores of each video in a random order."""
    generator = torch.Generator().manual_seed(seed)

    def change(scores: torch.Tensor) -> torch.Tensor:
        rows = [row.flatten()[torch.randperm(row.numel(), generator=generator)].view_as(row) for row in scores]
        return torch.stack(rows)

    return change


@contextmanager
def untrained_scorer(model: Any, seed: int) -> Iterator[None]:
    """Inside this context, the model has a scorer with new weights, drawn as before its training."""
    linvt, trained = model.model.linvt, model.model.linvt.svr
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        scorer = LinVTModule(linvt.hidden_size, linvt.config).svr
        for name, weight in scorer.named_parameters():
            if weight.dim() == 2 and not name.startswith("score"):
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
    linvt.svr = scorer.eval()
    try:
        yield
    finally:
        linvt.svr = trained


def measure(model: Any, processor: Any, clips: Sequence[ClipQuestion]) -> dict[str, float]:
    """Both shares, and the accuracy for each kind of question."""
    share_kept, share_asked = kept_shares(model, processor, clips)
    answers = accuracies(answer_questions(model, processor, clips, BATCH_SIZE, progress=False))
    return {"patches of the shape kept": share_kept, "kept tokens on the shape": share_asked, **answers}


def main(
    clips: Annotated[Path, typer.Option(help="Folder of the held-out clips; missing ones are written.")],
    model: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = ASSETS / "linvt-tiny",
    per_kind: Annotated[int, typer.Option(help="Questions of each kind.")] = 100,
    split: Annotated[str, typer.Option(help="test, or validation for decisions.")] = "test",
    seeds: Annotated[int, typer.Option(help="Number of untrained scorers and of random orders.")] = 3,
) -> None:
    """Compare the trained scorer of a small LinVT with untrained, shuffled and reversed ones."""
    torch.set_num_threads(1)
    loaded, processor = load_checkpoint(model)
    questions = held_out_clips(clips, per_kind, split)
    random.Random(0).shuffle(questions)
    rows = {"trained": [measure(loaded, processor, questions)], "untrained": [], "shuffled": []}
    for seed in range(seeds):
        with untrained_scorer(loaded, seed):
            rows["untrained"].append(measure(loaded, processor, questions))
        with changed_scores(loaded, shuffler(seed)):
            rows["shuffled"].append(measure(loaded, processor, questions))
    with changed_scores(loaded, torch.neg):
        rows["reversed"] = [measure(loaded, processor, questions)]
    names = list(rows["trained"][0])
    print(f"| scorer | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for scorer, found in rows.items():
        means = [statistics.fmean(row[name] for row in found) for name in names]
        print(f"| {scorer} ({len(found)}) | {' | '.join(f'{mean:.1%}' for mean in means)} |")


if __name__ == "__main__":
    typer.run(main)
