"""The small LinVT of the package: a LLaVA that is trained on single frames, and LinVT before its language model."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ...data.records import VideoQARecord, write_jsonl
from ...models.configuration_linvt import LinVTModuleConfig
from ...models.media_video import load_video
from ...models.modeling_linvt import LinVTForCausalLM
from ...models.modeling_pllava import PllavaForConditionalGeneration
from ...models.processing_linvt import LinVTProcessor
from ..check import Clip
from ..clips import make_scene, write_scene_mp4
from ..scene import (
    DETAIL_TEMPLATES,
    QA,
    QUESTION_TEMPLATES,
    SPLIT_SEEDS,
    Scene,
    Sprite,
)
from .pllava import build_tokenizer, tiny_towers, vocabulary

__all__ = [
    "STILL_KINDS",
    "bare_image_llm",
    "build_tiny_linvt",
    "build_tiny_llava",
    "held_out_stills",
    "start_with_places",
    "still_questions",
    "take_over_tower",
    "visible_sprites",
    "without_order",
    "write_stills",
]

# Questions that one frame answers. Those of order have the words of the questions about clips: of a single frame, what
# came first is what is there.
STILL_KINDS = ("colour", "shape", "count", "order", "detail", "side", "place")
SIDE_TEMPLATES = ("Where is the shape, {a} or {b}?", "Is the shape {a} or {b}?")
PLACE_TEMPLATES = (
    "In which direction does the shape lie?",
    "Which way does the shape lie?",
    "In what direction is the shape?",
    "Where does the shape lie?",
)
NEW_WORDS = ("lie", "where")
# Fractions of the frame's side: nearer to the middle, a shape is on neither side; and how much farther it must lie on
# one axis than on the other to lie in one direction.
MIN_OFFSET, MIN_LEAD = 0.05, 0.1

# For the small width and 8 frames of 64 tokens: half of the paper's queries, and half of the tokens are kept.
MODULE: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 4,
    "num_selected_tokens": 256,
    "num_queries": [32, 16, 8],
}

# Of an image-LLM that has never heard of videos.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ 'ASSISTANT:' }}{%- generation -%}{{ ' ' + message['content'][0]['text'] + eos_token }}{%- endgeneration -%}"
    "{%- else -%}"
    "{{ 'USER: ' }}"
    "{%- for block in message['content'] -%}"
    "{{ '<image>\\n ' if block['type'] == 'image' else block['text'] + ' ' }}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


def build_tiny_llava(
    seed: int = 0,
    image_size: int = 64,
    patch_size: int = 8,
    vision_width: int = 96,
    vision_layers: int = 3,
    text_width: int = 128,
    text_layers: int = 4,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Make the untrained small image-LLM and its processor: plain classes of transformers, sizes of the small PLLaVA.

    Args:
        seed: seed of the initial weights; the global random state is left as it was.
        image_size: side of the images the model sees, in pixels.
        patch_size: side of a patch in pixels; a patch is a token.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower, all of which are used.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
    """
    tokenizer = build_tokenizer([*vocabulary(), *NEW_WORDS])
    towers, special = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    config = LlavaConfig(
        **towers,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        # The last layer tells shapes apart, and no longer says well where they are; the first does.
        vision_feature_layer=[1 - vision_layers, -1],
        image_seq_length=(image_size // patch_size) ** 2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(max_new_tokens=8, do_sample=False, **special)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        # The class token, which the strategy then leaves out.
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


@torch.no_grad()
def take_over_tower(model: LlavaForConditionalGeneration, source: str | os.PathLike[str]) -> list[str]:
    """Give the vision tower, which sees one frame at a time, the weights of the small PLLaVA.

    Not the language model, which has seen frames in their order; and not the projector, whose outputs say next to
    nothing about their place (a linear fit on them explains a tenth of its variance).

    Args:
        model: with a tower of the size of the small PLLaVA; changed in place.
        source: folder of the checkpoint.

    Returns:
        Names of the parameters that were taken.
    """
    found = PllavaForConditionalGeneration.from_pretrained(source).state_dict()
    tower = {name: weight for name, weight in found.items() if "vision_tower" in name}
    model.load_state_dict(tower, strict=False)
    return sorted(tower)


@torch.no_grad()
def start_with_places(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> None:
    """Let visual tokens say from the start where in the image they are, in their first four channels.

    LinVT mixes tokens, so what a token does not say itself is lost.

    Args:
        model: its tower is trained, its projector new; the latter is changed in place.
        pixel_values: `(images, 3, height, width)`, a few hundred frames to fit the places to.
    """
    states = torch.cat([_tower_states(model, batch) for batch in pixel_values.split(64)])
    side = math.isqrt(states.shape[1])
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, side),) * 2, indexing="ij")
    waves = [columns, rows, torch.cos(math.pi * columns), torch.cos(math.pi * rows)]
    places = torch.stack(waves, dim=-1).reshape(-1, 4).double()
    # Shapes cover few patches, and are what is asked about: what is unlike the mean counts more.
    mean = states.mean((0, 1))
    weights = (states - mean).square().sum(-1, keepdim=True).flatten(0, 1)
    inputs = nn.functional.pad((states - mean).flatten(0, 1), (0, 1), value=1.0)
    moments = inputs.T @ (weights / weights.mean() * inputs) + 1e-2 * torch.eye(inputs.shape[1])
    fit = torch.linalg.solve(moments, inputs.T @ (weights / weights.mean() * places.repeat(len(states), 1)))
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    # Through the part of the activation that is nearly straight.
    offset, gain = 3.0, 0.5
    first.weight[:4] = gain * fit[:-1].T
    first.bias[:4] = offset + gain * (fit[-1] - mean @ fit[:-1])
    second.weight[:4] = 0
    second.weight[:4, :4] = torch.eye(4) / gain
    second.bias[:4] = -offset / gain


@contextmanager
def without_order(model: LlavaForConditionalGeneration) -> Iterator[None]:
    """Give the language model the tokens of images in an order that is drawn anew at every call, for a time.

    Args:
        model: in training; its weights and configuration stay as they are.
    """

    def shuffle(module: nn.Module, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, torch.randperm(tokens.shape[1])]

    hook = model.model.multi_modal_projector.register_forward_hook(shuffle)
    try:
        yield
    finally:
        hook.remove()


def _tower_states(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the projector gets: `(images, patches, width)` float64."""
    found: list[torch.Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    try:
        model.get_image_features(pixel_values=pixel_values)
    finally:
        hook.remove()
    return found[0].double()


def build_tiny_linvt(
    image_llm: str | os.PathLike[str],
    frames: Sequence[Image.Image],
    seed: int = 2,
    num_frames: int = 8,
    **options: Any,
) -> tuple[LinVTForCausalLM, LinVTProcessor]:
    """Put an untrained LinVT before the trained small image-LLM.

    Args:
        image_llm: folder of the image-LLM and its processor.
        frames: a few frames of clips, to see how large visual tokens are.
        seed: seed of the weights of LinVT, of which the scores of a new trunk depend; with this one they keep 89 % of
            the patches inside of shapes, with others a third. The global random state is left as it was.
        num_frames: frames sampled from a video.
        options: of `LinVTModuleConfig`.
    """
    config = LinVTModuleConfig(**{**MODULE, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LinVTForCausalLM.from_image_llm(image_llm, linvt_config=config, num_frames=num_frames)
        processor = LinVTProcessor.from_image_llm(image_llm, linvt_config=config, num_frames=num_frames)
        pixels = processor.image_processor(list(frames), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            tokens = torch.stack(list(model.model.backbone.get_image_features(pixel_values=pixels).pooler_output))
        _start_linvt(model.model.linvt, _size(tokens), _size(model.get_input_embeddings().weight))
    # Where the image-LLM lay when this was trained helps nobody.
    model.config.backbone_name = None
    return model, processor


def bare_image_llm(model: LinVTForCausalLM) -> LlavaForConditionalGeneration:
    """The image-LLM inside, as transformers has it, without LinVT; it shares all weights with the model."""
    with torch.device("meta"):
        image_llm = LlavaForConditionalGeneration(model.config.backbone_config)
    image_llm.model, image_llm.lm_head = model.model.backbone, model.lm_head
    image_llm.generation_config = copy.deepcopy(model.generation_config)
    return image_llm.eval()


@torch.no_grad()
def _start_linvt(linvt: nn.Module, visual_size: float, text_size: float) -> None:
    """Draw the weights so that attention is neither even nor already decided.

    Keys and values are visual tokens and words as they are, without a norm. Here tokens are eight in size and words a
    twentieth; with the usual weights the former would make every softmax pick one token, and the latter be unheard.
    """
    sizes = {"visual_attn": visual_size, "aggregator.": visual_size, "text_attn": text_size}
    for name, weight in linvt.named_parameters():
        if name.endswith("queries"):
            nn.init.normal_(weight, std=0.5)
        elif weight.dim() == 2 and not name.startswith("svr.score"):
            reads_raw = name.startswith("tta") and ("k_proj" in name or "v_proj" in name)
            size = next((size for part, size in sizes.items() if reads_raw and part in name), 1.0)
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5 / size)


def _size(values: Any) -> float:
    """Root of the mean square."""
    return values.detach().float().square().mean().sqrt().item()


def write_stills(clips: str | os.PathLike[str], seeds: Sequence[int], work: Path, per_clip: int = 2) -> Path:
    """Write frames of training clips as PNG files, and questions about them as records.

    Args:
        clips: folder with a file `<seed>.mp4` for each seed.
        seeds: which clips.
        work: folder for the frames and `stills.jsonl`.
        per_clip: frames of each clip, drawn without repetition.

    Returns:
        Path of the records.
    """
    rng = random.Random(0)
    folder = work / "stills"
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for seed in seeds:
        scene = make_scene(seed)
        chosen = sorted(rng.sample(range(scene.num_frames), per_clip))
        paths = _write_frames(Path(clips) / f"{seed:07d}.mp4", chosen, folder)
        for number, path in zip(chosen, paths, strict=True):
            records += [
                _still_record(f"{path.stem}-{index}", path, question)
                for index, question in enumerate(still_questions(scene, number))
            ]
    return write_jsonl(records, work / "stills.jsonl")


def held_out_stills(folder: Path, per_kind: int = 100, split: str = "test") -> list[Clip]:
    """Questions about single frames of held-out clips, the frames as PNG files; always the same ones.

    Args:
        folder: where clips and frames lie; missing ones are written.
        per_kind: questions of each of `STILL_KINDS`; one frame of a clip is asked one question.
        split: key of `SPLIT_SEEDS`.
    """
    wanted = dict.fromkeys(STILL_KINDS, per_kind)
    found = []
    for seed in SPLIT_SEEDS[split]:
        if not any(wanted.values()):
            break
        scene = make_scene(seed)
        number = random.Random(f"hf_videollm still of {seed}").randrange(scene.num_frames)
        open_questions = [question for question in still_questions(scene, number) if wanted[question.kind]]
        if not open_questions:
            continue
        question = max(open_questions, key=lambda candidate: wanted[candidate.kind])
        wanted[question.kind] -= 1
        video = folder / f"{seed:07d}.mp4"
        if not video.exists():
            write_scene_mp4(scene, video, with_audio=False)
        (path,) = _write_frames(video, [number], folder)
        found.append(Clip(path, question))
    return found


def _write_frames(video: Path, numbers: Sequence[int], folder: Path) -> list[Path]:
    """Write these frames of a video; those that exist are kept."""
    paths = [folder / f"{video.stem}-{number}.png" for number in numbers]
    if not all(path.exists() for path in paths):
        frames, _ = load_video(video, sample_indices_fn=lambda metadata: list(numbers))
        for path, frame in zip(paths, frames, strict=True):
            Image.fromarray(frame).save(path)
    return paths


def _still_record(name: str, path: Path, question: QA) -> VideoQARecord:
    content = [{"type": "image", "path": str(path.resolve())}, {"type": "text", "text": question.question}]
    answer = [{"type": "text", "text": question.answer}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return VideoQARecord.from_dict({"id": name, "messages": messages, "metadata": {"kind": question.kind}})


def visible_sprites(scene: Scene, frame: int) -> list[tuple[Sprite, tuple[float, float]]]:
    """What a frame of a scene shows: shapes, and their centres as fractions of the frame's side."""
    return [
        (sprite, sprite.centres[frame - sprite.first_frame])
        for sprite in scene.sprites
        if 0 <= frame - sprite.first_frame < len(sprite.centres)
    ]


def still_questions(scene: Scene, frame: int) -> list[QA]:
    """Questions about a single frame, and what is right to say.

    Those of place are only asked where the answer is plain to see.

    Args:
        scene: a motion, order or count scene.
        frame: number of the frame.
    """
    rng = random.Random(f"hf_videollm still {scene.seed} {frame}")
    shown = visible_sprites(scene, frame)
    if scene.kind == "count":
        return [QA("count", rng.choice(QUESTION_TEMPLATES["count"]), str(len(shown)))]
    ((sprite, (x, y)),) = shown
    questions = [
        QA("colour", rng.choice(QUESTION_TEMPLATES["colour"]), sprite.colour),
        QA("shape", rng.choice(QUESTION_TEMPLATES["shape"]), sprite.shape),
        *_place_questions(x - 0.5, y - 0.5, rng),
    ]
    if scene.kind == "order":
        names = [named.name for named in scene.sprites]
        rng.shuffle(names)
        order = rng.choice(QUESTION_TEMPLATES["order"]).format(a=names[0], b=names[1])
        questions.append(QA("order", order, sprite.name))
        for name, answer in (("colour", sprite.colour), ("shape", sprite.shape)):
            template = rng.choice(DETAIL_TEMPLATES)
            questions.append(QA("detail", template.format(property=name, place=rng.choice(("first", "last"))), answer))
    return questions


def _place_questions(x: float, y: float, rng: random.Random) -> list[QA]:
    """About a shape that lies this far from the middle, to the right and down."""
    questions = []
    for offset, names in ((x, ["left", "right"]), (y, ["up", "down"])):
        if abs(offset) > MIN_OFFSET:
            answer = names[offset > 0]
            rng.shuffle(names)
            questions.append(QA("side", rng.choice(SIDE_TEMPLATES).format(a=names[0], b=names[1]), answer))
    if abs(abs(x) - abs(y)) > MIN_LEAD:
        answer = ("left", "right")[x > 0] if abs(x) > abs(y) else ("up", "down")[y > 0]
        questions.append(QA("place", rng.choice(PLACE_TEMPLATES), answer))
    return questions
