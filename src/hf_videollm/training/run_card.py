"""The model card of a run: base model, data, licence, and how it was trained."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..hub.card_metadata import LIBRARY, PIPELINE_TAG
from ..hub.card_training import training_rows
from ..hub.licence_file import LICENCE_NAME
from ..hub.licence_terms import OTHER, UNKNOWN
from ..hub.licences import LicenceChain, licence_of
from ..hub.repo_names import is_repo_id
from ..known_models import bundled_checkpoints
from ..origin import DATA_ROLE, ORIGIN_FILE, Origin, SourceRecord, read_origin, source_record
from ..training_outputs import ADAPTER_CONFIG, CHECKPOINT
from .run_log import PLOT_FILE, read_log
from .run_record import COMMAND, RECIPE_FILE, read_run

__all__ = ["training_summary", "write_base_origin", "write_run_card", "write_run_origin"]

_TEXT = """# {name}

{kind} `{made_by}` made it from {base}.

| | |
|---|---|
{rows}
{plot}
## Use it

```bash
hf-videollm ask clip.mp4 "What happens?" --model {name}
```

`hf-videollm finish checkpoint {name} DST` writes a complete checkpoint, which loads without this package, too.
{repeats}`run.json` records the versions of the training, and `log.jsonl` what it logged.

## Licence

{licence}
"""


def training_summary(run: Path, steps: int | None = None) -> dict[str, Any]:
    """What a run says about itself, without paths of this machine.

    Args:
        run: the output folder of the training.
        steps: number of the last step; by default that of the last entry of the log.
    """
    record, log = read_run(run), read_log(run)
    file = run / RECIPE_FILE
    recipe = yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}
    base, data = record.get("base_model") or {}, record.get("data") or {}
    steps = steps if steps is not None else max((entry.get("step", 0) for entry in log), default=None)
    losses = [entry["loss"] for entry in log if "loss" in entry and (steps is None or entry["step"] <= steps)]
    session = (record.get("sessions") or [{}])[-1]
    path = data.get("mix") or data.get("records")
    return {
        "base_model": _last_name(base.get("model")),
        "model_options": base.get("model_options") or None,
        "quantized": "4 bits (NF4) in the training" if base.get("quantization") else None,
        "trained": _trained(recipe),
        "parameters": record.get("parameters"),
        "trained_parameters": record.get("trained_parameters"),
        "data": {"name": _data_name(path), "rows": data.get("rows"), "sha256": data.get("sha256")},
        "seeds": record.get("seeds"),
        "steps": steps,
        "last_loss": losses[-1] if losses else None,
        "versions": session.get("versions"),
        "git_revision": session.get("git_revision"),
        "recipe": _without_paths(recipe),
    }


def write_run_card(folder: Path, run: Path) -> None:
    """Write `README.md` and `origin.json` into a folder of a model that a run has saved.

    Args:
        folder: the folder of the model: that of the run, one of its checkpoints, or a temporary one.
        run: the output folder of the training. Without its record, nothing is written.
    """
    if not read_run(run).get("sessions"):
        return
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    summary, made_by = training_summary(run), read_run(run).get("made_by") or COMMAND
    origin = write_run_origin(folder, run, made_by, "adapter" if is_adapter else "finetune")
    chain = licence_of(folder)
    rows = "\n".join(f"| {name} | {value} |" for name, value in training_rows(summary))
    has_plot = (run / PLOT_FILE).is_file() and not CHECKPOINT.fullmatch(folder.name)
    text = _TEXT.format(
        name=run.name,
        kind="An adapter of PEFT, which needs its base model." if is_adapter else "A complete checkpoint.",
        base=f"`{summary['base_model']}`" if summary["base_model"] else "a model that was given in memory",
        made_by=made_by,
        repeats="`recipe.yaml` repeats the training. " if (run / RECIPE_FILE).is_file() else "",
        rows=rows,
        plot=f"\n![Losses over the steps]({PLOT_FILE})\n" if has_plot else "",
        licence=_licence_text(chain),
    )
    (folder / "README.md").write_text(f"---\n{_metadata(chain, origin)}\n---\n\n{text}", encoding="utf-8")


def write_run_origin(folder: Path, run: Path, made_by: str, relation: str) -> Origin:
    """Write `origin.json`: the base model of a run with its own sources, and the data."""
    record = read_run(run)
    data = record.get("data") or {}
    paths = [entry["annotation"] for entry in data.get("sources", ())] or [data.get("records")]
    others = [SourceRecord(DATA_ROLE, str(_data_name(path))) for path in paths if path]
    return write_base_origin(folder, (record.get("base_model") or {}).get("model"), made_by, relation, others)


def write_base_origin(
    folder: Path, base: str | None, made_by: str, relation: str = "finetune", others: Sequence[SourceRecord] = ()
) -> Origin:
    """Write `origin.json` of a model that was trained from a base model.

    Args:
        folder: folder to write to.
        base: folder, Hub id or bundled name. If it is `None`, the sources of a record that the folder has are kept.
        made_by: the command.
        relation: to the base model, in the words of the Hub.
        others: further sources.
    """
    sources: list[SourceRecord] = []
    if base is not None:
        place = bundled_checkpoints().get(base, Path(base))
        is_here = place.is_dir()
        # A folder that is no longer there is named by its last name, too.
        sources.append(
            source_record(place, "base model") if is_here else SourceRecord("base model", str(_last_name(base)))
        )
        if is_here and (earlier := read_origin(place)) is not None:
            sources += earlier.sources
    elif (carried := read_origin(folder)) is not None:
        sources += carried.sources
    origin = Origin(made_by, relation, tuple(dict.fromkeys([*sources, *others])))
    text = json.dumps(asdict(origin), indent=2, ensure_ascii=False)
    (folder / ORIGIN_FILE).write_text(f"{text}\n", encoding="utf-8")
    return origin


def _metadata(chain: LicenceChain, origin: Origin) -> str:
    from huggingface_hub import ModelCardData

    bases = [source.name for source in origin.sources if source.role == "base model" and is_repo_id(source.name)]
    licence = chain.suggested
    fields: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINE_TAG,
        "license": licence,
        "license_name": LICENCE_NAME if licence == OTHER else None,
        "base_model": bases,
        "base_model_relation": origin.relation if bases else None,
        "tags": ["hf_videollm", *(["lora", "peft"] if origin.relation == "adapter" else [])],
    }
    text: str = ModelCardData(**{name: value for name, value in fields.items() if value}).to_yaml()
    return text


def _licence_text(chain: LicenceChain) -> str:
    licence = chain.suggested
    first = (
        "The licence is unknown, because that of the base model is. Name it before you publish this model."
        if licence == UNKNOWN
        else f"`{licence}`, which follows from the base model."
    )
    lines = [f"- {source.name} ({source.role}): {source.shown}" for source in chain.sources]
    return "\n".join([first, "", *lines])


def _trained(recipe: Mapping[str, Any]) -> str | None:
    """In words, what a recipe trains."""
    if not recipe:
        return None
    lora = recipe.get("lora")
    parts = []
    if lora:
        targets = lora.get("target_modules") or "all linear layers of the language model"
        names = ", ".join(targets) if isinstance(targets, list) else targets
        parts.append(f"LoRA of rank {lora.get('r', 8)} on {names}")
        parts += lora.get("modules_to_save") or []
    parts += recipe.get("trainable") or []
    parts += [f"the last {number} layers of {part}" for part, number in (recipe.get("trainable_layers") or {}).items()]
    return "; ".join(parts) or "all parameters"


def _last_name(source: str | None) -> str | None:
    """A Hub id as it is; of a folder the last name alone, because its path may be private."""
    return os.path.basename(source) if source and os.path.isabs(source) else source


def _data_name(path: str | None) -> str | None:
    """The name of a file with that of its folder, because many files of records have the same name."""
    return None if path is None else "/".join(Path(path).absolute().parts[-2:])


def _without_paths(recipe: Mapping[str, Any]) -> dict[str, Any]:
    content = {name: value for name, value in recipe.items() if name != "frame_cache"}
    for name in ("records", "mix"):
        if isinstance(content.get(name), str):
            content[name] = _data_name(content[name])
    if isinstance(content.get("model"), str):
        content["model"] = _last_name(content["model"])
    arguments = dict(content.get("arguments") or {})
    if isinstance(arguments.get("output_dir"), str):
        arguments["output_dir"] = os.path.basename(arguments["output_dir"])
    return {**content, "arguments": arguments} if arguments else content
