"""The small LinVT of the package: a LLaVA that is trained on single frames, and LinVT before its language model."""

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
from ..check import ClipQuestion
from ..clips import make_scene, write_scene_mp4
from ..scene import (
    DETAIL_TEMPLATES,
    QA,
    QUESTION_TEMPLATES,
    SPLIT_SEEDS,
    Scene,
    Sprite,
)
from .parts import build_tokenizer, tiny_towers, vocabulary

# Kinds of questions that one frame answers. Questions of order read like those on clips; their answer is the shape that
# the frame shows.
STILL_KINDS = ("colour", "shape", "count", "order", "detail", "side", "place")
SIDE_TEMPLATES = ("Where is the shape, {a} or {b}?", "Is the shape {a} or {b}?")
PLACE_TEMPLATES = (
    "In which direction does the shape lie?",
    "Which way does the shape lie?",
    "In what direction is the shape?",
    "Where does the shape lie?",
)
NEW_WORDS = ("lie", "where")
# Fractions of the frame's side. A shape nearer to the middle than the first is on neither side. A shape lies in one
# direction if it is farther from the middle on one axis than on the other, by at least the second.
MIN_OFFSET, MIN_LEAD = 0.05, 0.1

# LinVT for a small width and 8 frames of 64 tokens: half of the paper's queries, and half of the tokens are kept.
MODULE: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 4,
    "num_selected_tokens": 256,
    "num_queries": [32, 16, 8],
}

# The chat template of an image-LLM, which knows no videos.
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
    """Make the untrained small image-LLM and its processor, both of transformers, in the sizes of the small PLLaVA.

    Args:
        seed: seed of the initial weights; the global random state does not change.
        image_size: side of the images that the model gets, in pixels.
        patch_size: side of a patch in pixels; a patch is a token.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower, all of which are used.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
    """
    tokenizer = build_tokenizer([*vocabulary(), *NEW_WORDS])
    towers, generation = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    # The language model shares no weights with other small models. It is narrower, so that all weights with LinVT's are
    # less than 6 MB.
    towers["text_config"]["intermediate_size"] = 5 * text_width // 2
    config = LlavaConfig(
        **towers,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        # The last layer tells shapes apart, and the first layer tells where they are.
        vision_feature_layer=[1 - vision_layers, -1],
        image_seq_length=(image_size // patch_size) ** 2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = generation
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        # The class token. It is counted here, and the strategy drops it.
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


@torch.no_grad()
def take_over_tower(model: LlavaForConditionalGeneration, source: str | os.PathLike[str]) -> list[str]:
    """Copy the weights of the small PLLaVA's vision tower, which was trained on one frame at a time.

    The language model is not copied, because it has learned the order of frames. Nor is the projector, because its
    outputs hardly tell positions in the image: a linear fit on them explains a tenth of the variance of positions.

    Args:
        model: image-LLM with a tower of the size of the small PLLaVA; it is changed.
        source: folder of the checkpoint of the small PLLaVA.

    Returns:
        Names of the parameters that were copied.
    """
    weights = PllavaForConditionalGeneration.from_pretrained(source).state_dict()
    tower = {name: weight for name, weight in weights.items() if "vision_tower" in name}
    model.load_state_dict(tower, strict=False)
    return sorted(tower)


@torch.no_grad()
def start_with_places(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> None:
    """Make the projector write the position of each visual token into the first four channels of the token.

    LinVT mixes tokens, so a position that a token does not hold itself is lost.

    Args:
        model: image-LLM with a trained tower and a new projector, which is changed.
        pixel_values: `(images, 3, height, width)`, a few hundred frames for the linear fit of positions.
    """
    states = torch.cat([_tower_states(model, batch) for batch in pixel_values.split(64)])
    side = math.isqrt(states.shape[1])
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, side),) * 2, indexing="ij")
    waves = [columns, rows, torch.cos(math.pi * columns), torch.cos(math.pi * rows)]
    positions = torch.stack(waves, dim=-1).reshape(-1, 4).double()
    # Questions are about shapes, which cover few patches. So patches that differ from the mean get a larger weight.
    mean = states.mean((0, 1))
    weights = (states - mean).square().sum(-1, keepdim=True).flatten(0, 1)
    inputs = nn.functional.pad((states - mean).flatten(0, 1), (0, 1), value=1.0)
    moments = inputs.T @ (weights / weights.mean() * inputs) + 1e-2 * torch.eye(inputs.shape[1])
    fit = torch.linalg.solve(moments, inputs.T @ (weights / weights.mean() * positions.repeat(len(states), 1)))
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    # The values go through a part of the activation that is almost linear.
    offset, gain = 3.0, 0.5
    first.weight[:4] = gain * fit[:-1].T
    first.bias[:4] = offset + gain * (fit[-1] - mean @ fit[:-1])
    second.weight[:4] = 0
    second.weight[:4, :4] = torch.eye(4) / gain
    second.bias[:4] = -offset / gain


@contextmanager
def without_order(model: LlavaForConditionalGeneration) -> Iterator[None]:
    """Inside this context, the language model gets the tokens of each image in a new random order at every call.

    Args:
        model: image-LLM in training; its weights and configuration do not change.
    """

    def shuffle(module: nn.Module, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, torch.randperm(tokens.shape[1])]

    hook = model.model.multi_modal_projector.register_forward_hook(shuffle)
    try:
        yield
    finally:
        hook.remove()


def _tower_states(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """The inputs of the projector: `(images, patches, width)` float64."""
    states: list[torch.Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    try:
        model.get_image_features(pixel_values=pixel_values)
    finally:
        hook.remove()
    return states[0].double()


def build_tiny_linvt(
    image_llm: str | os.PathLike[str],
    frames: Sequence[Image.Image],
    seed: int = 0,
    num_frames: int = 8,
    **options: Any,
) -> tuple[LinVTForCausalLM, LinVTProcessor]:
    """Put an untrained LinVT before the trained small image-LLM.

    Args:
        image_llm: folder of the image-LLM and its processor.
        frames: a few frames of clips, from which the size of visual tokens is measured.
        seed: seed of the weights of LinVT; the global random state does not change.
        num_frames: number of frames sampled from a video.
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
    # The path of the image-LLM on this machine is not saved.
    model.config.backbone_name = None
    return model, processor


def bare_image_llm(model: LinVTForCausalLM) -> LlavaForConditionalGeneration:
    """The image-LLM without LinVT, as a class of transformers; it shares all weights with the model."""
    with torch.device("meta"):
        image_llm = LlavaForConditionalGeneration(model.config.backbone_config)
    image_llm.model, image_llm.lm_head = model.model.backbone, model.lm_head
    image_llm.generation_config = copy.deepcopy(model.generation_config)
    return image_llm.eval()


@torch.no_grad()
def _start_linvt(linvt: nn.Module, visual_size: float, text_size: float) -> None:
    """Draw the weights so that the first attention weights are neither all equal nor all on one token.

    Keys and values are visual tokens and embeddings of words without a norm. In this model the root mean square of
    tokens is 8 and that of words 0.05. With usual weights, a softmax over tokens would pick one token, and a softmax
    over words would weigh all words alike.
    """
    sizes = {"visual_attn": visual_size, "aggregator.": visual_size, "text_attn": text_size}
    for name, weight in linvt.named_parameters():
        if name.endswith("queries"):
            nn.init.normal_(weight, std=0.5)
        elif weight.dim() == 2 and not name.startswith("svr.score"):
            is_without_norm = name.startswith("tta") and ("k_proj" in name or "v_proj" in name)
            size = next((size for part, size in sizes.items() if is_without_norm and part in name), 1.0)
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


def held_out_stills(folder: Path, per_kind: int = 100, split: str = "test") -> list[ClipQuestion]:
    """Questions about single frames of held-out clips, always the same ones, with the frames as PNG files.

    Args:
        folder: folder of clips and frames; missing files are written.
        per_kind: number of questions of each of `STILL_KINDS`. There is one question for each clip.
        split: key of `SPLIT_SEEDS`.
    """
    wanted = dict.fromkeys(STILL_KINDS, per_kind)
    clips = []
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
        clips.append(ClipQuestion(path, question))
    return clips


def _write_frames(video: Path, numbers: Sequence[int], folder: Path) -> list[Path]:
    """Write these frames of a video as PNG files, unless all of them exist."""
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
    """The shapes that a frame of a scene shows, and their centres as fractions of the frame's side."""
    return [
        (sprite, sprite.centres[frame - sprite.first_frame])
        for sprite in scene.sprites
        if 0 <= frame - sprite.first_frame < len(sprite.centres)
    ]


def still_questions(scene: Scene, frame: int) -> list[QA]:
    """Questions about a single frame, with their answers.

    Questions about the position of a shape are left out if the position is ambiguous.

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
    """Questions about a shape whose centre is `x` to the right of the middle, and `y` below it."""
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
