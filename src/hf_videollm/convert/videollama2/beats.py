"""Converts Microsoft's BEATs checkpoints and the audio towers of VideoLLaMA2-AV to a `BeatsModel`."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.dynamic_module_utils import custom_object_save

from ...atomic import atomic_folder
from ...models.configuration_beats import BeatsConfig
from ...models.errors import CheckpointError, one_line
from ...models.feature_extraction_beats import BeatsFeatureExtractor
from ...models.modeling_beats import BeatsModel
from ..blocks import cast_blocks, read_blocks
from ..options import Progress, Source, check_write_options
from ..pickle_reader import read_weight_file
from ..report import Rows, WrittenReport
from ..stream import StoredTensor, TensorPlan
from ..tensors import misfits, model_shapes, refuse, usual_dtype
from ..writing import write_weights
from .keys import EAR, SHARED_TABLE, Contents, check_copies, sort_beats

LAYER = re.compile(re.escape(EAR) + r"encoder\.layers\.(\d+)\..+")
# Settings of Microsoft's file -> our fields. The first group can also be read from the shapes of the tensors; the
# second group is only in the settings.
VISIBLE_SETTINGS = {
    "input_patch_size": "patch_size",
    "embed_dim": "patch_embedding_dim",
    "encoder_embed_dim": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
    "encoder_ffn_embed_dim": "intermediate_size",
    "conv_pos": "conv_pos_kernel",
    "conv_pos_groups": "conv_pos_groups",
    "num_buckets": "num_buckets",
}
HIDDEN_SETTINGS = {
    "activation_fn": "hidden_act",
    "max_distance": "max_distance",
    "deep_norm": "deep_norm",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "layerdrop",
}
# The only values that our model supports. A checkpoint with other values is refused.
FIXED_SETTINGS = {
    "layer_norm_first": False,
    "conv_bias": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}


@dataclass(frozen=True, kw_only=True)
class BeatsReport(WrittenReport):
    """The report of a conversion of BEATs."""

    source: str

    def source_rows(self) -> Rows:
        return [("converted", f"{self.source} (BEATs)")]


def beats_config(contents: Contents, settings: Mapping[str, Any]) -> BeatsConfig:
    """Make the configuration of a BEATs encoder: sizes from its tensors, the rest from its settings.

    Args:
        contents: its tensors, under the names that they have in our whole model.
        settings: `cfg` of Microsoft's file; empty if there is none.

    Raises:
        CheckpointError: a tensor that determines a size is missing, the settings contradict the tensors, or they
            describe another kind of BEATs.
    """
    sizes = {name: tensor.shape for name, tensor in contents.weights.items() if name.startswith(EAR)}

    def size(name: str, axis: int, dimensions: int) -> int:
        shape = sizes.get(EAR + name)
        if shape is None or len(shape) != dimensions:
            found = "is missing" if shape is None else f"has the shape {shape}"
            raise CheckpointError(f"{contents.official(EAR + name)} {found} in {contents.origin}: this is no BEATs.")
        return shape[axis]

    hidden_size = size("post_extract_proj.weight", 0, 2)
    fields: dict[str, Any] = {
        "patch_size": size("patch_embedding.weight", 3, 4),
        "patch_embedding_dim": size("patch_embedding.weight", 0, 4),
        "hidden_size": hidden_size,
        "num_hidden_layers": 1 + max((int(match[1]) for name in sizes if (match := LAYER.fullmatch(name))), default=-1),
        "num_attention_heads": size(SHARED_TABLE.removeprefix(EAR), 1, 2),
        "intermediate_size": size("encoder.layers.0.fc1.weight", 0, 2),
        "conv_pos_kernel": size("encoder.pos_conv.direction", 2, 3),
        "conv_pos_groups": hidden_size // max(size("encoder.pos_conv.direction", 1, 3), 1),
        "num_buckets": size(SHARED_TABLE.removeprefix(EAR), 0, 2),
    }
    for name, ours in VISIBLE_SETTINGS.items():
        if name in settings and settings[name] != fields[ours]:
            raise CheckpointError(
                f"{contents.origin} says {name} {settings[name]}, but its tensors say {fields[ours]}: download it "
                "again."
            )
    for name, value in FIXED_SETTINGS.items():
        if name in settings and settings[name] != value:
            raise CheckpointError(f"{contents.origin} has {name} {settings[name]}; only {value} is supported.")
    fields |= {ours: settings[name] for name, ours in HIDDEN_SETTINGS.items() if name in settings}
    try:
        config = BeatsConfig(**fields)
        config.validate()
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"{contents.origin} cannot be converted: {one_line(error)}") from error
    return config


def convert_beats(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BeatsReport:
    """Convert one BEATs file to a folder that `BeatsModel.from_pretrained` and `AutoModel` load.

    Args:
        source: Microsoft's .pt file, an audio_tower.bin of VideoLLaMA2-AV, or one of them as safetensors.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        dtype: type of all weights; by default the stored types are kept.
        overwrite: whether to replace a destination that is not empty.
        progress: called with (bytes written, bytes to write).

    Raises:
        CheckpointError: the file is no BEATs, is damaged, or is a pickle that holds more than tensors.
        FileExistsError: the destination is not empty and `overwrite` is not set.
    """
    source = Path(source)
    sources = [Source("source", source)]
    options = check_write_options(destination, sources, dtype=dtype, overwrite=overwrite, progress=progress)
    with (
        atomic_folder(options.destination, overwrite=overwrite) as folder,
        tempfile.TemporaryDirectory(dir=folder, prefix="pickles.") as workspace,
    ):
        stored = read_weight_file(source, Path(workspace))
        contents = sort_beats(stored.tensors, source)
        config = beats_config(contents, stored.settings)
        weights = contents.part("audio tower")
        expected = {EAR + name: shape for name, shape in model_shapes(config, BeatsModel, source).items()}
        strangers = [tensor for name, tensor in contents.weights.items() if name not in weights]
        refuse(
            misfits(
                weights,
                expected,
                [*contents.unknown, *strangers],
                lambda name: f"{contents.official(name)} is missing in {source}",
                "BEATs",
            )
        )
        check_copies(contents)
        config.architectures = [BeatsModel.__name__]
        config.dtype = options.dtype or usual_dtype(weights.values())
        ours: dict[str, StoredTensor] = {name.removeprefix(EAR): weights[name] for name in expected}
        plans = [TensorPlan(name, tensor.shape, options.dtype or tensor.dtype) for name, tensor in ours.items()]

        def load(name: str) -> Iterator[torch.Tensor]:
            return cast_blocks(read_blocks(ours[name]), options.dtype or ours[name].dtype, ours[name])

        files, total = write_weights(folder, plans, load, options)
        with torch.device("meta"):
            # With the class instead of an instance, config.json would not name the class.
            custom_object_save(BeatsModel(config), folder, config=config)
        config.save_pretrained(folder)
        BeatsFeatureExtractor(num_mel_bins=config.num_mel_bins, patch_size=config.patch_size).save_pretrained(folder)
    return BeatsReport(
        source=str(source),
        destination=str(destination),
        parameters=sum(tensor.nbytes // tensor.dtype.itemsize for tensor in ours.values()),
        weight_bytes=total,
        weight_files=[file.name for file in files],
        dtype=str(config.dtype).removeprefix("torch."),
        notes=["the AudioSet classifier of the checkpoint was dropped."] if contents.dropped else [],
    )


__all__ = ["BeatsReport", "beats_config", "convert_beats"]
