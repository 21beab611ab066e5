"""Writes a quantized or bfloat16 variant of a checkpoint, and proves that the variant is what it should be."""

import json
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForImageTextToText, AutoProcessor

from ..atomic import atomic_folder
from ..convert import MAX_SHARD_SIZE
from ..inference import load_design_config
from ..known_models import bundled_checkpoints, bundled_name, find_model
from ..models.errors import CheckpointError
from ..models.video_llm_processor_files import processor_errors
from ..origin import ORIGINAL, write_origin
from .checkpoint import save_checkpoint
from .licence_file import LICENCE_PATTERNS
from .places import place_of, refuse_inside
from .presets import QuantizationPreset, check_platform, find_preset
from .quantized_weights import WeightErrors, compare_with_original, compare_written, fingerprints
from .steps import Tell, told_step

if TYPE_CHECKING:
    from rich.table import Table

REPORT_FILE = "quantization_report.json"


@dataclass(frozen=True)
class QuantizeReport:
    """What was written.

    Attributes:
        preset: name of the preset.
        source: the original: its Hub id, or the name of its folder.
        destination: the folder that was written.
        source_bytes: size of the weight files of the original; 0 if it is not a folder.
        weight_bytes: size of the weight files of the variant.
        errors: how far the quantized layers are from the original ones.
        versions: of the libraries that took part.
    """

    preset: str
    source: str
    destination: str
    source_bytes: int
    weight_bytes: int
    errors: WeightErrors = field(default_factory=WeightErrors)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> "Table":
        """A table for a rich console."""
        from rich.table import Table
        from rich.text import Text

        rows = [("preset", self.preset), ("original", self.source), ("written to", self.destination)]
        ratio = f", {self.weight_bytes / self.source_bytes:.2f} of the original" if self.source_bytes else ""
        rows.append(("weights", f"{self.weight_bytes:,} bytes{ratio}"))
        if self.errors.layers:
            rows.append(("quantized layers", f"{self.errors.layers}"))
            rows.append(("relative error", f"{self.errors.mean:.4f}, largest {self.errors.largest:.4f}"))
            rows.append(("largest in", str(self.errors.worst)))
        rows.append(("checked", "loaded again; all weights are as they were quantized"))
        table = Table(show_header=False, box=None)
        for name, value in rows:
            # `Text`, because rich would read brackets in a path as markup.
            table.add_row(name, Text(value))
        return table


def quantize(
    checkpoint: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    preset: str,
    device: str | None = None,
    overwrite: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
    progress: Tell | None = None,
) -> QuantizeReport:
    """Write a variant of a checkpoint: the language model quantized, all other parts in bfloat16.

    The variant is written before any model runs, loaded again, and compared: its weights must be exactly those that
    were quantized, the parts that are not quantized must be the original ones, and the error of each quantized layer
    must be as small as the method allows. The folder appears only after that.

    Args:
        checkpoint: folder, Hub id or name of a bundled checkpoint.
        dst: folder to write.
        preset: one of `hf_videollm.hub.presets.PRESETS`, or its short name, such as `nf4`.
        device: where the weights are quantized; the CPU by default, if the preset can be used there.
        overwrite: replace a destination that is not empty.
        max_shard_size: maximum size of one weight file in bytes.
        progress: called with the name of each step when it begins, and then with the name and how far it is, such as
            `"Comparing with the original, 45 of 97 weights"`.

    Raises:
        PresetError: the preset is unknown, or does not work on this machine.
        CheckpointError: `checkpoint` is damaged, is no checkpoint of a design or is quantized already; or the variant
            is not what it should be.
        FileExistsError: the destination is not empty and `overwrite` is not set, or it is the checkpoint itself.

    Example:
        >>> from hf_videollm.hub.quantize import quantize
        >>> report = quantize("pllava-tiny", "./small-nf4", preset="consumer-nf4")  # doctest: +SKIP
    """
    chosen = find_preset(preset)
    source = find_model(checkpoint)
    _refuse_source(source, dst)
    place = device or ("cuda" if chosen.needs_gpu else "cpu")
    check_platform(chosen, place)
    tell = progress or (lambda step: None)
    with atomic_folder(dst, overwrite=overwrite) as temporary:
        expected = _write(chosen, source, temporary, place, max_shard_size, tell)
        with told_step(tell, "Loading the variant again"):
            again = _load(temporary, place)
        with told_step(tell, "Comparing with what was quantized") as count:
            compare_written(expected, again, count)
        with told_step(tell, "Loading the original"):
            original = _load(source, place, dtype=chosen.dtype)
        with told_step(tell, "Comparing with the original") as count:
            errors = compare_with_original(again, original, chosen.largest_error, count)
        report = QuantizeReport(
            preset=chosen.name,
            source=os.path.basename(os.path.abspath(source)) if os.path.isdir(source) else source,
            destination=str(dst),
            source_bytes=_size(Path(source)),
            weight_bytes=_size(temporary),
            errors=errors,
            versions=_versions(chosen),
        )
        _add_texts(place_of(source), temporary, report)
        _write_origin(source, temporary, chosen)
    return report


def preset_of(folder: str | os.PathLike[str]) -> QuantizationPreset | None:
    """The preset by which `quantize` wrote a folder; `None` for any other folder.

    Example:
        >>> from hf_videollm import default_checkpoint
        >>> preset_of(default_checkpoint()) is None
        True
    """
    try:
        return find_preset(str(json.loads((Path(folder) / REPORT_FILE).read_text(encoding="utf-8"))["preset"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_source(source: str, dst: str | os.PathLike[str]) -> None:
    config = load_design_config(source)
    if getattr(config, "quantization_config", None):
        raise CheckpointError(f"{source} is quantized already: give the original, whose weights are more exact.")
    if os.path.isdir(source) and Path(source).resolve() == Path(dst).resolve():
        raise FileExistsError(f"{dst} is the checkpoint itself: choose another destination.")
    if os.path.isdir(source):
        refuse_inside(source, dst)


def _write(
    preset: QuantizationPreset, source: str, folder: Path, device: str, max_shard_size: int, tell: Tell
) -> dict[str, bytes]:
    """Quantize and save, and return the fingerprints of what was saved. The model must not run before it is saved."""
    with processor_errors(source, {"trust_remote_code": False}):
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    with told_step(tell, "Reading and quantizing" if preset.package else "Reading"):
        model = _load(source, device, dtype=preset.dtype, quantization_config=preset.quantization_config())
    for name, value in preset.generation.items():
        setattr(model.generation_config, name, value)
    with told_step(tell, "Noting what was quantized") as count:
        expected = fingerprints(model, count)
    with told_step(tell, "Writing", unit="files"):
        save_checkpoint(model, processor, folder, max_shard_size=max_shard_size)
    if preset.config:
        _set_fields(folder / "config.json", preset.config)
    return expected


def _load(source: str | Path, device: str, **options: Any) -> Any:
    # The device is named, because bitsandbytes would take a GPU by itself if there is one.
    return AutoModelForImageTextToText.from_pretrained(
        source, device_map={"": device}, trust_remote_code=False, **options
    ).eval()


def _set_fields(file: Path, values: dict[str, Any]) -> None:
    """Add fields to config.json. transformers reads the attention from there, but never writes it itself."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_origin(source: str, folder: Path, preset: QuantizationPreset) -> None:
    """Record the original with its licence, which holds for the variant, too."""
    place = place_of(source)
    # A copy of a bundled checkpoint is named as the bundled one, whose licence is known.
    named = bundled_checkpoints().get(bundled_name(place) or "", place)
    write_origin(folder, f"hf-videollm quantize --preset {preset.name}", [(ORIGINAL, named)], relation="quantized")


def _add_texts(source: Path, folder: Path, report: QuantizeReport) -> None:
    """Add the licence of the original, and the report without the destination, which is a folder of this machine."""
    content = {name: value for name, value in report.to_dict().items() if name != "destination"}
    (folder / REPORT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for pattern in LICENCE_PATTERNS:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                copyfile(file, folder / file.name)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _versions(preset: QuantizationPreset) -> dict[str, str]:
    names = ["torch", "transformers", *([preset.package] if preset.package else [])]
    return {name: version(name) for name in names}


__all__ = ["REPORT_FILE", "QuantizeReport", "preset_of", "quantize"]
