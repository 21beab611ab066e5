"""`build_checkpoint`: makes a checkpoint, from which the first training stage starts, from the sources of a design."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..atomic import atomic_folder
from ..convert import MAX_SHARD_SIZE
from ..convert.ftfv.convert import convert_ftfv
from ..convert.options import Progress, Source, check_write_options
from ..convert.report import WrittenReport
from ..convert.stream import read_json, require_folder
from ..convert.writing import write_code_and_configs
from ..hub.checkpoint import check_loads
from ..models.configuration_video_llm import context_length
from ..models.errors import CheckpointError
from ..origin import write_origin
from ..pair_check import check_pair
from .designs import Design
from .joining import planned_tensors, write_tensors
from .linvt import make_linvt
from .options import check_options, find_design
from .report import BuildReport
from .video_llm import make_video_llm

# Maps an argument to its name in messages and its option on the command line.
SOURCES = {
    "vision": ("vision tower", "--vision"),
    "language_model": ("language model", "--llm"),
    "audio": ("audio tower", "--audio"),
    "image_llm": ("image-LLM", "--image-llm"),
    "tokenizer": ("tokenizer", "--tokenizer"),
}


def build_checkpoint(
    design: str,
    destination: str | os.PathLike[str],
    *,
    vision: str | os.PathLike[str] | None = None,
    language_model: str | os.PathLike[str] | None = None,
    audio: str | os.PathLike[str] | None = None,
    image_llm: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> WrittenReport:
    """Make a checkpoint of a design from its parts, ready for the first training stage.

    The weights of the sources are not changed, and tied heads stay tied. The language model keeps its chat template:
    a question without media gives the language model's own prompt and answer. Parts that no source has get the random
    initial values of a new model. The model is in memory only once, and the folder appears complete or not at all.

    Args:
        design: `"pllava"`, `"videollama2"`, `"videollama2_av"`, `"linvt"`, `"iva"` or `"ftfv"`.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        vision: folder of a CLIP, a SigLIP, or any vision tower of transformers with a grid of patches. For FTFV also
            the folder of a Qwen-VL, whose adapter is then used, too.
        language_model: folder of a causal language model of transformers.
        audio: the BEATs of VideoLLaMA2-AV: a folder that `convert_beats` wrote, or the file that it converts.
        image_llm: folder of an image-LLM, for LinVT instead of `vision` and `language_model`.
        tokenizer: folder of the tokenizer, if the language model's folder has none.
        seed: random seed of the new parts. The global random state is not changed.
        dtype: type of all weights (`"float32"`, `"float16"`, `"bfloat16"`); by default the stored types are kept.
        max_shard_size: maximum size of one weight file in bytes.
        overwrite: whether to replace a destination that is not empty.
        progress: called with (bytes written, bytes to write).
        options: fields of the design's configuration, such as `num_frames=8` or `pooling_shape=[16, 12, 12]`; for
            LinVT also those of its module.

    Returns:
        What was read and written: a `BuildReport`, or an `FtfvReport` if `vision` is a Qwen-VL.

    Raises:
        CheckpointError: a source is missing, wrong or damaged, or does not fit; or an option is unknown or impossible.
            The message is one line that names the folder and what to do.
        FileExistsError: the destination is not empty and `overwrite` is not set.
    """
    chosen = find_design(design)
    given = {
        "vision": vision,
        "language_model": language_model,
        "audio": audio,
        "image_llm": image_llm,
        "tokenizer": tokenizer,
    }
    places = {name: Path(place) for name, place in given.items() if place is not None}
    _check_sources(chosen, places)
    if chosen.config.model_type == "ftfv" and _is_qwen_vl(places["vision"]):
        return convert_ftfv(
            places["vision"],
            places["language_model"],
            destination,
            tokenizer=tokenizer,
            seed=seed,
            dtype=dtype,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            progress=progress,
            **_options_of_qwen_vl(options),
        )
    check_options(chosen, options)
    write = check_write_options(
        destination,
        [Source(SOURCES[name][0], place) for name, place in places.items()],
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        progress=progress,
    )
    with (
        atomic_folder(write.destination, overwrite=overwrite) as folder,
        tempfile.TemporaryDirectory(dir=folder, prefix="work.") as workspace,
    ):
        if chosen.config.model_type == "linvt":
            made = make_linvt(chosen, places, options, write.dtype, seed, Path(workspace))
        else:
            made = make_video_llm(chosen, places, options, write.dtype, seed, Path(workspace))
        config = made.model.config
        config.architectures = [chosen.model.__name__]
        check_pair(config, made.processor)
        tensors = planned_tensors(made.model)
        files, size = write_tensors(folder, tensors, write)
        classes = (chosen.model, chosen.processor)
        write_code_and_configs(folder, config, made.generation_config, made.processor, classes)
        parts = [(SOURCES[name][0], place) for name, place in places.items() if name != "tokenizer"]
        write_origin(folder, f"hf-videollm build {config.model_type}", parts)
        check_loads(folder, made.model, made.processor)
    return BuildReport(
        design=config.model_type,
        sources={SOURCES[name][0]: str(place) for name, place in places.items()},
        destination=str(destination),
        new_parts=made.new_parts,
        new_parameters=made.new_parameters,
        seed=seed,
        next_step=chosen.next_step,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        weight_bytes=size,
        weight_files=[file.name for file in files],
        dtype=str(config.dtype).removeprefix("torch."),
        token_ids=made.token_ids,
        has_processor=True,
        notes=[*made.notes, *_context_note(config)],
    )


def _context_note(config: Any) -> list[str]:
    """A note if one video of the usual number of frames is more than the language model can read."""
    context = context_length(config)
    tokens = config.num_video_tokens(config.num_frames)
    if context is None or tokens < context:
        return []
    return [
        f"a video of {config.num_frames} frames becomes {tokens:,} tokens, and the language model reads at most "
        f"{context:,}: choose fewer frames (--frames), or other tokens per frame."
    ]


def _check_sources(design: Design, places: dict[str, Path]) -> None:
    """Check that the user named exactly the sources of the design, and that they are folders.

    Raises:
        CheckpointError: a source is missing, is not used by this design, or is no folder.
    """
    name = design.config.model_type
    needed = ["image_llm"] if name == "linvt" and "image_llm" in places else list(design.sources)
    for source in needed:
        if source not in places:
            what, option = SOURCES[source]
            instead = ", or an image-LLM (--image-llm FOLDER)" if name == "linvt" else ""
            article = "an" if what[0] in "aeiou" else "a"
            raise CheckpointError(f"{name} is built from {article} {what}: pass its folder ({option} FOLDER){instead}.")
    for source, place in places.items():
        what, option = SOURCES[source]
        # An image-LLM has its own processor, which includes the tokenizer.
        if source not in (needed if "image_llm" in needed else (*needed, "tokenizer")):
            wanted = " and ".join(SOURCES[other][1] for other in needed)
            raise CheckpointError(f"{name} takes no {what} here: leave out {option}, and pass {wanted}.")
        if not (source == "audio" and place.is_file()):
            require_folder(place, f"the {what}")


def _is_qwen_vl(folder: Path) -> bool:
    file = folder / "config.json"
    return file.is_file() and isinstance(read_json(file).get("visual"), dict)


def _options_of_qwen_vl(options: dict[str, Any]) -> dict[str, Any]:
    known = ("num_frames", "num_tokens_per_frame")
    if unknown := sorted(options.keys() - set(known)):
        raise CheckpointError(f"{unknown[0]} is determined by Qwen-VL's adapter: only {', '.join(known)} can be set.")
    return options


__all__ = ["build_checkpoint"]
