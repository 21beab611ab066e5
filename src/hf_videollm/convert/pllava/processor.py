"""Makes a `PllavaProcessor` from the tokenizer of an official PLLaVA checkpoint, and chooses the placeholder ids."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessor

from ...models.configuration_pllava import PllavaConfig
from ...models.errors import CheckpointError
from ...models.processing_pllava import CHAT_TEMPLATE, PllavaProcessor
from ...models.video_processing_pllava import PllavaVideoProcessor
from ..stream import read_json
from ..tokenizers import compare_eos, load_tokenizer, set_padding, with_token

IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
CHATML_MARK = "<|im_start|>"
# The fields of preprocessor_config.json that are used. Sizes come from the vision tower instead.
IMAGE_FIELDS = {
    "do_resize": bool,
    "do_center_crop": bool,
    "do_rescale": bool,
    "do_normalize": bool,
    "do_convert_rgb": bool,
    "image_mean": list,
    "image_std": list,
    "rescale_factor": float,
    "resample": int,
}

# The 34B model uses ChatML. As in its training and most of its evaluation, the prompt begins with the system text
# without a header, and a video has its own line before the text of the turn.
CHATML_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- generation -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for block in message['content'] -%}{{ block['text'] }}{%- endfor -%}{%- endif -%}"
    "{%- if not (loop.last and continue_final_message is defined and continue_final_message) -%}"
    "{{ '<|im_end|>' }}{%- endif -%}"
    "{%- endgeneration -%}"
    "{%- if not (loop.last and continue_final_message is defined and continue_final_message) -%}"
    "{{ '\\n' }}{%- endif -%}"
    "{%- else -%}"
    "{%- if message['role'] == 'user' -%}{{ '<|im_start|>user\\n' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for block in message['content'] -%}"
    "{%- if block['type'] == 'video' -%}{{ '<video>\\n' }}{%- if not loop.last -%}{{ ' ' }}{%- endif -%}"
    "{%- elif block['type'] == 'image' -%}{{ '<image>\\n' }}{%- if not loop.last -%}{{ ' ' }}{%- endif -%}"
    "{%- else -%}{{ block['text'] }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class ProcessorResult:
    """A processor, `None` without a tokenizer, and the placeholder ids that the model must use."""

    processor: PllavaProcessor | None
    image_token_id: int
    video_token_id: int
    notes: list[str] = field(default_factory=list)


def build_processor(
    config: PllavaConfig,
    tokenizer_folder: Path | None,
    preprocessor_file: Path | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
) -> ProcessorResult:
    """Make the processor of a converted checkpoint, and choose its placeholder ids.

    Args:
        config: converted configuration; its `image_token_id` comes from the official config.json.
        tokenizer_folder: folder of the tokenizer. If it is `None`, only the ids of `config` are checked.
        preprocessor_file: official preprocessor_config.json, if there is one.
        pad_token_id: padding token of the checkpoint, for a tokenizer that has none.
        eos_token_id: end-of-text tokens of the checkpoint, to compare with the tokenizer's.

    Raises:
        CheckpointError: the tokenizer cannot be read or belongs to another model, or a file is damaged.
    """
    vocab_size = config.text_config.vocab_size
    if tokenizer_folder is None:
        if not 0 <= config.image_token_id < vocab_size:
            raise CheckpointError(
                f"image_token_index {config.image_token_id} is outside of the vocabulary of {vocab_size} tokens, and "
                "there is no tokenizer that has the right id: pass the folder of the tokenizer (--tokenizer)."
            )
        note = (
            "no tokenizer found: processor files not written; pass --tokenizer FOLDER. "
            f"Images and videos share the placeholder id {config.image_token_id}."
        )
        return ProcessorResult(None, config.image_token_id, config.image_token_id, [note])
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer, image_id, notes = place_image_token(tokenizer, config.image_token_id, vocab_size, tokenizer_folder)
    tokenizer, video_token, video_id, video_notes = place_video_token(tokenizer, image_id, vocab_size)
    notes += video_notes + set_padding(tokenizer, pad_token_id) + compare_eos(tokenizer, eos_token_id)
    chat_template = CHATML_TEMPLATE if CHATML_MARK in tokenizer.get_vocab() else CHAT_TEMPLATE
    image_options, image_notes = _image_options(config, preprocessor_file)
    video_options = {**image_options, "num_frames": config.num_frames, "resize_mode": "pllava"}
    processor = PllavaProcessor(
        image_processor=CLIPImageProcessor(**image_options),
        tokenizer=tokenizer,
        video_processor=PllavaVideoProcessor(**video_options),
        chat_template=chat_template if video_token == VIDEO_TOKEN else _share_placeholder(chat_template),
        image_token=IMAGE_TOKEN,
        video_token=video_token,
        pooling_shape=list(config.pooling_shape),
    )
    return ProcessorResult(processor, image_id, video_id, notes + image_notes)


def place_image_token(tokenizer: Any, config_id: int, vocab_size: int, folder: Path) -> tuple[Any, int, list[str]]:
    """The id of `<image>`. The tokenizer's id is used, because this is the id that prompts will hold.

    The official 34B files name 64002, but some tokenizer releases give 64000. The original code then finds no image in
    its prompts (issue 32 of its repository).

    Raises:
        CheckpointError: the id is outside of the vocabulary, so the tokenizer belongs to another model.
    """
    notes = []
    token_id = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if token_id is None:
        tokenizer, token_id = with_token(tokenizer, IMAGE_TOKEN)
        notes.append(f"{IMAGE_TOKEN} was added to the tokenizer of {folder} as id {token_id}.")
    if not 0 <= token_id < vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {IMAGE_TOKEN} as id {token_id}, outside of the vocabulary of {vocab_size} "
            f"tokens (config.json says {config_id}): pass the tokenizer of this model (--tokenizer)."
        )
    if token_id != config_id:
        notes.append(
            f"image_token_index is {config_id} in config.json and {token_id} in the tokenizer of {folder}: the "
            "tokenizer's id is used, because prompts hold it. If the tokenizer belongs to another model, convert again."
        )
    return tokenizer, token_id, notes


def place_video_token(tokenizer: Any, image_id: int, vocab_size: int) -> tuple[Any, str, int, list[str]]:
    """Token and id of the video placeholder: `<video>` if the vocabulary has a free row, otherwise `<image>`."""
    token_id = tokenizer.get_vocab().get(VIDEO_TOKEN)
    if token_id is None:
        extended, token_id = with_token(tokenizer, VIDEO_TOKEN)
        if token_id < vocab_size:
            return extended, VIDEO_TOKEN, token_id, []
    elif token_id < vocab_size:
        return tokenizer, VIDEO_TOKEN, token_id, []
    note = (
        f"the vocabulary of {vocab_size} tokens has no free row for {VIDEO_TOKEN}: videos share the placeholder "
        f"{IMAGE_TOKEN} with images."
    )
    return tokenizer, IMAGE_TOKEN, image_id, [note]


def _share_placeholder(template: str) -> str:
    """The template with `<image>` also for videos."""
    return template.replace(f"'{VIDEO_TOKEN}", f"'{IMAGE_TOKEN}").replace(
        "'<' + block['type'] + '>'", f"'{IMAGE_TOKEN}'"
    )


def _image_options(config: PllavaConfig, preprocessor_file: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Options that image and video processor share. Without a file, the defaults of CLIP's image processor are used."""
    size = config.vision_config.image_size
    options: dict[str, Any] = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    if preprocessor_file is None:
        return options, []
    stored = read_json(preprocessor_file)
    for name, kind in IMAGE_FIELDS.items():
        if (value := stored.get(name)) is not None:
            options[name] = _checked_option(value, name, kind, preprocessor_file)
    crop = stored.get("crop_size", size)
    height = crop.get("height") if isinstance(crop, dict) else crop
    if height != size:
        return options, [f"crop_size {crop} in {preprocessor_file} does not fit the vision tower: {size} is used."]
    return options, []


def _checked_option(value: Any, name: str, kind: type, file: Path) -> Any:
    """Return `value` if it has the right kind: a bool, a number, or one number for each colour channel."""
    numbers = (int, float) if kind is float else kind
    is_fine = isinstance(value, numbers) and (kind is bool or not isinstance(value, bool))
    if kind is list:
        is_fine = is_fine and len(value) == 3 and all(type(item) in (int, float) for item in value)
    if not is_fine:
        raise CheckpointError(f"{file}: {name} {value!r} is no valid setting of a CLIP image processor.")
    return value


__all__ = ["CHATML_TEMPLATE", "ProcessorResult", "build_processor"]
