"""Draw the pictures of the model cards into `model_cards/pictures/`: the designs, and an example of each small model.

`python tools/model_card_pictures.py [NAME ...]`. PNG files are shown on every page of the Hub, SVG files are not. The
examples are answers that the small checkpoints give; `examples.json` has them, and the cards read it.
"""

import json
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from hf_videollm import load_pipeline
from hf_videollm.designs import DESIGNS
from hf_videollm.hub.card_files import load_facts
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4
from hf_videollm.synthetic.long import long_questions, make_long_scene, render_long_scene, write_long_mp4
from hf_videollm.synthetic.render import render_scene

FOLDER = Path(__file__).resolve().parents[1] / "model_cards" / "pictures"
EXAMPLES = FOLDER / "examples.json"
SHOWN_FRAMES = 8
INK, FILL, DPI = "#1f2937", "#e0ecff", 100


def draw_design(name: str, path: Path) -> None:
    """Draw the steps of a design as boxes, from the frames at the top to the language model."""
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    steps = load_facts(f"designs/{name}")["steps"]
    figure, axes = pyplot.subplots(figsize=(6.4, 0.95 * len(steps) + 0.5), dpi=DPI)
    axes.set(xlim=(0, 10), ylim=(-len(steps) + 0.35, 1.0))
    axes.axis("off")
    axes.text(5, 0.72, DESIGNS[name].title, ha="center", fontsize=13, weight="bold", color=INK)
    for place, (step, does) in enumerate(steps):
        axes.add_patch(FancyBboxPatch((0.4, -place - 0.3), 9.2, 0.66, boxstyle="round,pad=0.05", fc=FILL, ec=INK, lw=1))
        axes.text(5, -place + 0.16, step, ha="center", va="center", fontsize=11, weight="bold", color=INK)
        axes.text(5, -place - 0.14, does, ha="center", va="center", fontsize=9, color=INK)
        if place + 1 < len(steps):
            arrow = {"arrowstyle": "-|>", "color": INK}
            axes.annotate("", (5, -place - 0.62), (5, -place - 0.34), arrowprops=arrow)
    figure.savefig(path, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


def answer_example(name: str) -> tuple[dict[str, str], np.ndarray]:
    """Ask a small checkpoint about its clip: question, answer and the right answer; and the frames."""
    asked = load_facts(f"checkpoints/{name}")["example"]
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        if asked["kind"] == "long":
            scene: Any = make_long_scene(asked["seed"])
            write_long_mp4(scene, clip)
            frames, questions = render_long_scene(scene), long_questions(scene)
        else:
            scene = make_scene(asked["seed"], kind=asked["kind"])
            write_scene_mp4(scene, clip)
            frames, questions = render_scene(scene), questions_for(scene, sound="videollama2-av" in name)
        chosen = next(item for item in questions if item.kind == asked["asks"])
        pipe = load_pipeline(name)
        answer = pipe(str(clip), text=chosen.question, return_full_text=False)[0]["generated_text"].strip()
    return {"question": chosen.question, "answer": answer, "expected": chosen.answer}, frames


def draw_example(example: dict[str, str], frames: np.ndarray, path: Path) -> None:
    """Draw some frames of a clip in a row, and the question with the answer below them."""
    from matplotlib import pyplot

    numbers = np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).round().astype(int)
    figure, axes = pyplot.subplots(1, len(numbers), figsize=(1.1 * len(numbers), 1.75), dpi=DPI)
    for axis, number in zip(axes, numbers, strict=True):
        axis.imshow(frames[number])
        axis.set_title(f"frame {number + 1}", fontsize=7, color=INK)
        axis.axis("off")
    text = f"{example['question']}\nThe model answers: {example['answer']}"
    figure.text(0.5, 0.05, "\n".join(textwrap.wrap(text, 90, replace_whitespace=False)), ha="center", fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.25, wspace=0.06)
    figure.savefig(path, facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in DESIGNS:
        if load_facts(f"designs/{name}") and (not names or name in names):
            draw_design(name, FOLDER / f"{name}.png")
    examples = json.loads(EXAMPLES.read_text(encoding="utf-8")) if EXAMPLES.is_file() else {}
    for name in bundled_checkpoints():
        if not names or name in names:
            examples[name], frames = answer_example(name)
            draw_example(examples[name], frames, FOLDER / f"{name}-example.png")
    EXAMPLES.write_text(json.dumps(dict(sorted(examples.items())), indent=2) + "\n", encoding="utf-8")
    print(f"Drawn into {FOLDER}.")


if __name__ == "__main__":
    main(sys.argv[1:])
