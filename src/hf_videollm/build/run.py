"""`build_checkpoint`: the sources of a design in, one folder out that its first training stage starts from."""

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
from ..models.errors import CheckpointError
from ..pair_check import check_pair
from .designs import Design
from .joining import planned_tensors, write_tensors
from .linvt import make_linvt
from .options import check_options, find_design
from .report import BuildReport
from .video_llm import make_video_llm

# Argument -> its name in messages, and its option on the command line.
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
    """Put a checkpoint of a design together that is ready for its first training stage.

    All weights of the sources are taken as they are, tied heads stay tied, and the language model keeps its chat
    template: a question without media has its own prompt and answer. What no source has is drawn as in a new model.
    The model is held in memory once. The folder appears complete or not at all.

    Args:
        design: `"pllava"`, `"videollama2"`, `"videollama2_av"`, `"linvt"`, `"iva"` or `"ftfv"`.
        destination: folder to write; must not exist, or be empty, unless `overwrite`.
        vision: folder of a CLIP, a SigLIP, or any vision tower of transformers with a grid of patches. For FTFV also
            that of a Qwen-VL, whose adapter is taken as well.
        language_model: folder of a causal language model of transformers.
        audio: BEATs of VideoLLaMA2-AV, a folder of `convert_beats` or the file that this converts.
        image_llm: folder of an image-LLM, for LinVT instead of `vision` and `language_model`.
        tokenizer: folder of the tokenizer, where the language model's has none.
        seed: of the new parts; the global random state is left as it was.
        dtype: type of all weights (`"float32"`, `"float16"`, `"bfloat16"`); as they are stored by default.
        max_shard_size: bytes of one weight file.
        overwrite: replace a destination that holds something.
        progress: called with (bytes written, bytes to write).
        options: fields of the design's configuration, such as `num_frames=8` or `pooling_shape=[16, 12, 12]`; for
            LinVT also those of its module.

    Returns:
        What was found and written: a `BuildReport`, or an `FtfvReport` of Qwen-VL.

    Raises:
        CheckpointError: a source is missing, something else or damaged, or does not fit; or an option is unknown or
            impossible. One line that names the folder and what to do.
        FileExistsError: the destination holds something and `overwrite` is not set.
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
        notes=made.notes,
    )


def _check_sources(design: Design, places: dict[str, Path]) -> None:
    """Exactly the sources of the design, and folders.

    Raises:
        CheckpointError: one is missing, is none of this design's, or is no folder.
    """
    name = design.config.model_type
    needed = ["image_llm"] if name == "linvt" and "image_llm" in places else list(design.sources)
    for source in needed:
        if source not in places:
            what, option = SOURCES[source]
            instead = ", or an image-LLM (--image-llm FOLDER)" if name == "linvt" else ""
            raise CheckpointError(f"{name} is built from a {what}: pass its folder ({option} FOLDER){instead}.")
    for source, place in places.items():
        what, option = SOURCES[source]
        # An image-LLM brings its processor, and the tokenizer in it.
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
        raise CheckpointError(f"{unknown[0]} follows from Qwen-VL's adapter: only {', '.join(known)} can be set.")
    return options


__all__ = ["build_checkpoint"]
