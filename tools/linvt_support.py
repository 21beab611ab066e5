"""Test LinVT on a tiny random image-LLM of every family, and write `docs/measured/linvt_backbones.md`.

`python tools/linvt_support.py` takes about a minute. The document has the results of these runs. The tests
(`tests/models/test_linvt_*.py`) check the same properties and more.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENT = REPOSITORY / "docs" / "measured" / "linvt_backbones.md"
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

import tiny_image_llms as cases  # noqa: E402

from hf_videollm.models.linvt_backbones import Backbone  # noqa: E402
from hf_videollm.models.linvt_families import ADDED_FEATURES, FRAME_CALLS, TYPE_RULES  # noqa: E402

# Classes that LinVT refuses, for various reasons, and their model types.
REFUSED_CLASSES = {
    "Gemma3nModel": "gemma3n",
    "Gemma4Model": "gemma4",
    "Phi4MultimodalModel": "phi4_multimodal",
    "MllamaModel": "mllama",
    "Florence2Model": "florence2",
    "LlavaNextModel": "llava_next",
    "LlavaNextVideoModel": "llava_next_video",
    "VideoLlavaModel": "video_llava",
}
STEPS = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
TEMPLATE = """# LinVT on image-LLMs of transformers

`python tools/linvt_support.py` writes this page; do not edit it by hand. This version was made with transformers
{version}.

LinVT works on any image-LLM whose base model has `get_image_features` and a forward that takes `inputs_embeds`. The
table shows what was tested: tiny random models of {count} families ({models} models) in float32 on a CPU. It does not
show how well a family answers questions about videos after training.

| family | works | class | image bypass | cached = uncached | batch = alone | static cache | effect of video |
|---|---|---|---|---|---|---|---|
{rows}

Each number is the largest difference between two sets of logits (`bitwise`: no difference):

- image bypass: prompts with images and prompts of text alone, compared with the image-LLM itself.
- cached = uncached: tokens that were generated with a cache, compared with one forward over all of them; one row has
  images and a video.
- batch = alone: three left-padded prompts with different numbers of videos, frames and words of the question, compared
  with each prompt alone.
- static cache: generated tokens, compared with a dynamic cache.
- effect of video: the same prompt with a different video. This number must be large; otherwise the small numbers in the
  other columns would prove nothing.

## What differs between the families

| family | how frames are passed to its image processor | notes |
|---|---|---|
{notes}

Families that are in none of the tables on this page were not tested. LinVT accepts them if their classes have what it
needs.

## Refused

| class | family | reason |
|---|---|---|
{refused}

LinVT also refuses a checkpoint that is no image-LLM (a text model, for example), and one whose head is not a linear
layer on its base model (BLIP-2).

## Features for deeper layers (deepstack)

In Qwen3-VL, the tower also feeds features into the first layers of the language model: each visual token has additional
vectors, one for each of these levels. LinVT mixes the vectors of each level with the same matrix M that mixes the
tokens (`LinVTConfig(mix_deepstack=True)`, the default). So all inputs of the language model stay linear in the outputs
of the tower. With `mix_deepstack=False`, a video has no vectors for the deeper levels. Images always keep theirs.
Measured with the tiny models:

| family | M = I, with deepstack | M = I, without | a random M, with compared with without |
|---|---|---|---|
{deepstack}

With M = I, a video of one frame is the same as an image. With deepstack, its logits are those of the image. Without it,
they differ: the language model would get a kind of input that it has never seen. This is why the default is `True`. It
costs n x k x levels x width multiplications per video: {giga:.1f} billion for n = 112 outputs, k = 2048 kept tokens, 3
levels and width 2560.

## Molmo2

Molmo2's image processor always makes a view of the whole image and at least one crop, even with `max_crops=1`. LinVT
uses only the view of the whole image, as Molmo2 does for the frames of its own videos. So half of the processor's work
is unused. The images and videos of one prompt attend to each other in both directions, as Molmo2's images do. Therefore
no image or video can be added to a conversation whose beginning is in a cache, and LinVT refuses that.
"""


def largest(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference."""
    return (first - second).abs().max().item()


def written(value: float) -> str:
    """A difference as text for the table."""
    return "bitwise" if value == 0 else f"{value:.0e}"


def step_logits(model: Any, batch: dict[str, Any], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of generated tokens, `(rows, steps, vocabulary)`, and the sequences."""
    outputs = model.generate(**batch, **STEPS, suppress_tokens=[cases.IMAGE, cases.VIDEO], **options)
    return torch.stack(outputs.logits, 1), outputs.sequences


@torch.no_grad()
def measure(name: str) -> dict[str, float]:
    """Test one of `tiny_image_llms.CASES`.

    Returns:
        The largest differences of logits: `bypass`, `cached`, `batch`, `static`, and `moved`, which must be large.
    """
    image_llm, model = cases.make_image_llm(name), cases.make_linvt(name)
    media, lengths = cases.image_media(name, image_llm.model, cases.make_frames(2))
    images = [("i", lengths[0]), 7, ("i", lengths[1])]
    pictures = cases.prompt(model, [[5, *images, 8, 9], [3, 4]])
    own = image_llm(**cases.without_foreign(image_llm, pictures), **media).logits
    results = {"bypass": largest(model(**pictures, **media).logits, own)}

    clips = [cases.make_frames(3), cases.make_frames(2, seed=1)]
    batch = {**cases.prompt(model, [[5, "v", 6, 9], [3, *images, 4, "v", 8]]), **media, **cases.videos(name, clips)}
    steps, tokens = step_logits(model, batch)
    added = tokens[:, batch["input_ids"].shape[1] :]
    whole = model(**cases.extend(model, batch, added)).logits[:, -added.shape[1] - 1 : -1]
    results["cached"] = largest(steps, whole)
    static, _ = step_logits(model, batch, cache_implementation="static", disable_compile=True)
    results["static"] = largest(static, steps)

    rows = [[5, "v", 6], [3, "v", 4, 5, "v", 8, 9, 7], [11, 12]]
    owned = [[clips[0]], [clips[1], cases.make_frames(5, seed=2)], []]
    questions = torch.tensor([[6, 0, 0], [4, 5, 8], [0, 0, 0]])
    asked = {"question_input_ids": questions, "question_attention_mask": (questions > 0).long()}
    every = cases.videos(name, [clip for part in owned for clip in part])
    together = model(**cases.prompt(model, rows), **every, **asked).logits
    results["batch"] = 0.0
    for number, (row, part) in enumerate(zip(rows, owned, strict=True)):
        single = cases.prompt(model, [row])
        if part:
            single |= {**cases.videos(name, part), **{key: value[number, None] for key, value in asked.items()}}
        alone = model(**single).logits[0]
        results["batch"] = max(results["batch"], largest(together[number, -len(alone) :], alone))
    other = cases.videos(name, [cases.make_frames(3, seed=7), *owned[1]])
    results["moved"] = largest(model(**cases.prompt(model, rows), **other, **asked).logits[0], together[0])
    return results


@torch.no_grad()
def measure_deepstack(name: str) -> tuple[float, float, float]:
    """The effect of deepstack on the logits.

    Returns:
        With M = I, the difference from an image with deepstack and without; with a random M, the difference between
        both.
    """
    model, count = cases.make_linvt(name), 7
    linvt = model.model.linvt
    linvt.config.num_selected_tokens, usual = count, linvt.aggregate
    processor = cases.make_processor(name)
    processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * count}
    frame = cases.make_frames(1)[0].repeat(8, axis=0)[: 28 * count, :28]
    inputs = cases.frame_inputs(processor, name, [[frame]])
    media = {key: inputs[f"{key}_videos"] for key in ("pixel_values", "image_grid_thw")}
    as_image, as_video = (cases.prompt(model, [[5, part, 6, 9]]) for part in (("i", count), "v"))
    places = model.model.prompt_positions(as_image["input_ids"], None, as_image["mm_token_type_ids"], media)
    expected = model(**as_image, **media, position_ids=places).logits
    found: dict[tuple[bool, bool], torch.Tensor] = {}
    for is_identity in (True, False):
        for is_mixed in (True, False):
            model.config.mix_deepstack = is_mixed

            def identity(selection: Any, *_: Any, return_map: bool = False) -> Any:
                return (selection.tokens, torch.eye(count)[None]) if return_map else selection.tokens

            linvt.aggregate = identity if is_identity else usual
            found[is_identity, is_mixed] = model(**as_video, **inputs, position_ids=places).logits
    differences = [largest(found[True, is_mixed], expected) for is_mixed in (True, False)]
    return differences[0], differences[1], largest(found[False, True], found[False, False])


def family_notes(name: str) -> list[str]:
    """The differences of a family from the others, from its model and from the tables of `linvt_families`."""
    base = cases.make_image_llm(name).model
    family = base.config.model_type
    notes = []
    if Backbone(base).has_spatial_positions:
        notes.append("M-RoPE: each vector of a video takes one position, like a word")
    if Backbone(base).has_deepstack:
        notes.append("deepstack, see below")
    if family in ADDED_FEATURES:
        notes.append("features are added to the placeholder's embedding")
    if family in TYPE_RULES:
        rule = TYPE_RULES[family]
        notes.append(
            f"`{rule.argument}`: vectors of a video attend to each other in both directions, as those of an image do"
            if rule.meaning == "media"
            else f"`{rule.argument}`: the prompt attends to itself in both directions; from `labels` if not passed"
        )
    if family == "ovis2":
        notes.append("a video gets indicator tokens before and after it, like an image")
    if family == "perception_lm":
        notes.append("tested with a SigLIP tower, not with its own tower, which is from timm")
    if family == "llava_onevision":
        media = {key.removesuffix("_videos"): value for key, value in one_frame(name).items()}
        del media["num_video_frames"]
        notes.append(
            f"a video of one frame is an any-res image ({Backbone(base).encode_frames(media, [1]).tokens[0].shape[1]} "
            "tokens here; with several frames, 17 per frame)"
        )
    return notes


def one_frame(name: str) -> dict[str, torch.Tensor]:
    """The inputs for a video of one frame."""
    return cases.videos(name, [cases.make_frames(1)])


def frame_call(family: str) -> str:
    """How frames are passed to the image processor, in words."""
    if family not in FRAME_CALLS:
        return "as a flat list"
    call = FRAME_CALLS[family]
    layout = {"flat": "as a flat list", "videos": "one list per video", "frames": "one list per frame"}[call.layout]
    return ", ".join([layout, *(f"`{key}={value!r}`" for key, value in call.options.items())])


def refusal(class_name: str, family: str) -> str:
    """The reason for which `Backbone.check` refuses a class. No layers of the class are made for this."""
    made = getattr(transformers, class_name)
    base = made.__new__(made)
    torch.nn.Module.__init__(base)
    base.config = AutoConfig.for_model(family)
    try:
        Backbone(base).check()
    except ValueError as error:
        reason = str(error).split(". Take another")[0].split(": take an image-LLM")[0]
        return reason.removeprefix(f"LinVT does not support {class_name} yet: ").removeprefix(f"{class_name} ")
    raise AssertionError(f"{class_name} is not refused")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def document() -> str:
    """The whole document."""
    rows, notes, deepstack = [], [], []
    for name, (family, *_) in sorted(cases.CASES.items()):
        base = cases.make_image_llm(name).model
        results = measure(name)
        columns = [written(results[key]) for key in ("bypass", "cached", "batch", "static")]
        works = max(results[key] for key in ("bypass", "cached", "batch", "static")) < 1e-4 < results["moved"]
        moved = f"{results['moved']:.2f}"
        rows.append([name, "yes" if works else "NO", type(base).__name__, *columns, moved])
        notes.append([name, frame_call(family), "; ".join(family_notes(name)) or "-"])
        if Backbone(base).has_deepstack:
            mixed, left_out, usual = measure_deepstack(name)
            deepstack.append([name, written(mixed), f"{left_out:.2f}", f"{usual:.2f}"])
        print(*rows[-1], flush=True)
    refused = [[name, family, refusal(name, family)] for name, family in REFUSED_CLASSES.items()]
    return TEMPLATE.format(
        version=transformers.__version__,
        count=len({family for family, *_ in cases.CASES.values()}),
        models=len(cases.CASES),
        rows=table(rows),
        notes=table(notes),
        refused=table(refused),
        deepstack=table(deepstack),
        giga=112 * 2048 * 3 * 2560 / 1e9,
    )


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
