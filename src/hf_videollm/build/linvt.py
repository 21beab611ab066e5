"""Builds LinVT on an existing image-LLM, or on a new LLaVA made from a vision tower and a language model."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ..convert.parts import (
    SAMPLING,
    load_language_model,
    load_part,
    load_tower,
    put_in,
    read_config,
    read_language_config,
    read_vision_config,
    start_parts,
)
from ..convert.scales import sample_picture, scale_weights
from ..models.configuration_linvt import LinVTModuleConfig
from ..models.configuration_video_llm import PublishedConfig, has_class_token, has_tied_embeddings, patch_grid
from ..models.errors import CheckpointError, one_line
from ..models.linvt_backbones import Backbone
from ..models.linvt_families import EXAMPLES
from ..models.modeling_linvt import LinVTForCausalLM
from ..models.processing_linvt import LinVTProcessor
from ..models.video_llm_chat_template import keep_chat_template
from ..models.video_llm_word_size import word_size
from .designs import Design
from .joining import check_text, check_tower
from .made import Made, mixed_types_note
from .options import refuse_impossible
from .pixels import image_processor_class, pixel_settings
from .words import build_generation_config, read_words, template_notes


def make_linvt(
    design: Design,
    places: Mapping[str, Path],
    options: Mapping[str, Any],
    dtype: torch.dtype | None,
    seed: int,
    workspace: Path,
) -> Made:
    """Make a LinVT on an image-LLM.

    Args:
        design: LinVT with its classes.
        places: folders of the sources: `image_llm`, or `vision`, `language_model` and optionally `tokenizer`.
        options: fields of `LinVTConfig` and of `LinVTModuleConfig`.
        dtype: type of all weights; `None` keeps the stored types.
        seed: random seed of the new parts.
        workspace: folder for temporary files, on the disk that will hold the result.

    Raises:
        CheckpointError: a source is not what it should be, is damaged, or does not fit.
    """
    new_parts: list[str] = []
    notes: list[str] = []
    new_parameters = 0
    if "image_llm" in places:
        image_llm, inner = read_image_llm(places["image_llm"], dtype, workspace)
        base = image_llm
    else:
        image_llm, inner, base, new_parameters, notes = make_llava(design, places, dtype, seed, workspace)
        new_parts = ["multi_modal_projector"]
    module = {name: options[name] for name in options if name in LinVTModuleConfig.__dataclass_fields__}
    own = {name: value for name, value in options.items() if name not in module}
    with refuse_impossible(design):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LinVTForCausalLM.around_image_llm(image_llm, linvt_config=module or None, **own)
        processor = LinVTProcessor.from_image_llm_processor(inner, model.config)
    model.config.dtype = dtype or image_llm.dtype
    if "image_llm" in places:
        # An adapter that is saved alone names this folder as its image-LLM.
        model.config.backbone_name = str(places["image_llm"].resolve())
    ids = model.config.placeholder_ids()
    check_text(model, base, set(ids.values()))
    generation_config = model.generation_config
    if "image_llm" in places:
        generation_config.update(do_sample=False, **dict.fromkeys(SAMPLING))
    return Made(
        model=model,
        processor=processor,
        generation_config=generation_config,
        new_parts=["linvt", *new_parts],
        new_parameters=new_parameters + sum(weight.numel() for weight in model.model.linvt.parameters()),
        token_ids=ids,
        notes=[*notes, *template_notes(processor)],
    )


def read_image_llm(folder: Path, dtype: torch.dtype | None, workspace: Path) -> tuple[Any, Any]:
    """Load an image-LLM with all its weights, and its processor.

    Raises:
        CheckpointError: the folder holds no image-LLM, or is damaged.
    """
    config = read_config(folder)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or isinstance(config, PublishedConfig):
        raise CheckpointError(
            f"{folder / 'config.json'} describes a model of type {config.model_type!r}, which is no "
            "image-LLM: pass the folder of "
            f"an image-LLM ({EXAMPLES}), or a tower and a language model (--vision, --llm)."
        )
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    model = load_part(model_class, folder, config, workspace, dtype or "auto")
    try:
        return model, AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = one_line(error, 200)
        raise CheckpointError(
            f"{folder} has no processor that can be read ({reason}): add the files of the processor."
        ) from error


def make_llava(
    design: Design, places: Mapping[str, Path], dtype: torch.dtype | None, seed: int, workspace: Path
) -> tuple[Any, Any, Any, int, list[str]]:
    """Make a LLaVA with a new projector.

    Its image placeholder needs no row in the embedding, because LinVT itself puts the vectors of images in its place.

    Returns:
        The LLaVA, its processor, its language model, the number of new values, and notes for the user.

    Raises:
        CheckpointError: a source is not what it should be, is damaged, or does not fit.
    """
    folder, vision_folder = places["language_model"], places["vision"]
    text_config, raw = read_language_config(folder)
    vision_config = read_vision_config(vision_folder)
    pixels = pixel_settings(vision_folder, vision_config)
    words, ids, notes = read_words(folder, places.get("tokenizer"), design.placeholders, text_config.vocab_size)
    generation_config, more = build_generation_config(folder, raw, text_config, words)
    rows, columns = patch_grid(vision_config)
    config = LlavaConfig(
        vision_config=copy.deepcopy(vision_config),
        text_config=copy.deepcopy(text_config),
        image_token_index=ids["image"],
        image_seq_length=rows * columns,
        tie_word_embeddings=has_tied_embeddings(text_config),
        **design.config.fields_for_parts(vision_config, text_config),
    )
    language = load_language_model(folder, copy.deepcopy(text_config), workspace, dtype or "auto")
    tower = load_tower(vision_folder, copy.deepcopy(vision_config), workspace, dtype or "auto")
    try:
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(config)
    except (AttributeError, ValueError, TypeError) as error:
        reason = one_line(error)
        raise CheckpointError(
            f"{folder} cannot be part of a LLaVA ({reason}): use a LLaMA-like language model."
        ) from error
    put_in(model, tower, language)
    projector: Any = model.model.multi_modal_projector
    picture, size = sample_picture(vision_config, tower.dtype), word_size(language.get_input_embeddings())

    def scale() -> None:
        check_tower(vision_config, vision_folder, lambda frames: _count_features(model.model, frames.to(tower.dtype)))
        weights = {"": [projector.linear_1.weight, projector.linear_2.weight]}
        scale_weights(projector, [projector], weights, lambda: _count_features(model.model, picture), size)

    new_parameters = start_parts(model.model, [projector], seed, language.dtype, scale)
    model.generation_config = generation_config
    processor = LlavaProcessor(
        image_processor=image_processor_class(vision_config)(**pixels),
        tokenizer=words,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(has_class_token(vision_config)),
        chat_template=keep_chat_template(words, design.placeholders) or USER_ASSISTANT,
    )
    notes = [*notes, *more, *mixed_types_note({"tower": tower, "language model": language}, language.dtype)]
    notes.append("the image-LLM is a new LLaVA with an untrained projector: train it on images before LinVT.")
    return model.eval(), processor, language, new_parameters, notes


def _count_features(base: Any, frames: torch.Tensor) -> int:
    """Number of vectors of one image. Tower and language model may have different types here, as in their sources."""
    projector: nn.Module = base.multi_modal_projector
    dtype = next(projector.parameters()).dtype
    handle = projector.register_forward_pre_hook(lambda _, arguments: tuple(value.to(dtype) for value in arguments))
    try:
        return len(Backbone(base).encode_images({"pixel_values": frames}).tokens[0])
    finally:
        handle.remove()


# The chat template for language models that have none.
USER_ASSISTANT = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ 'ASSISTANT:' }}{%- generation -%}{{ ' ' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for block in message['content'] -%}{{ block['text'] }}{%- endfor -%}{%- endif -%}"
    "{{ eos_token }}{%- endgeneration -%}"
    "{%- else -%}"
    "{{ 'USER: ' if message['role'] == 'user' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for block in message['content'] -%}"
    "{{ block['text'] if block['type'] == 'text' else '<image>\\n' }}"
    "{%- endfor -%}{%- endif -%}{{ ' ' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)

__all__ = ["make_linvt"]
