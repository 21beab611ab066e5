"""Write `docs/models.md`: the repositories of models, what they cost and how they were checked.

`python tools/models_page.py`. Everything on the page is computed from the checkpoints and configurations, or read from
`model_cards/`; `tests/test_models_page.py` fails when the page is old.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from hf_videollm.costs.info import CheckpointInfo, describe_checkpoint
from hf_videollm.costs.linvt import linvt_table
from hf_videollm.costs.presets import find_preset
from hf_videollm.designs import DESIGNS
from hf_videollm.hub.card_files import load_facts
from hf_videollm.hub.card_numbers import shown_as
from hf_videollm.hub.licences import known_sources, licence_of
from hf_videollm.hub.presets import PRESETS
from hf_videollm.known_models import bundled_checkpoints

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "models.md"
OWNER = "OWNER"
TEMPLATE = """# Models

`python tools/models_page.py` writes this page; do not edit it by hand. `hf-videollm card FOLDER` writes the page that a
model has on the Hub, and [the quantized variants](quantized.md) stand beside it.

In the ids, `OWNER` stands for the account that publishes the model: this project has published none yet. `hf-videollm
push FOLDER OWNER/NAME` publishes one. "Memory" is that of the weights in bfloat16; the cache is the key-value cache of
one video, with up to 30 seconds of sound if the model hears, and 256 tokens of text.

## Small checkpoints

They come with the package and were trained on synthetic clips only. All of them are under Apache-2.0. "Checked" is the
share of right answers to questions about clips that were not used in training, by kind of question.

| repo id | design | parameters | on disk | frames | tokens of a video | cache | checked |
|---|---|---|---|---|---|---|---|
{small}

## Models that you convert

Their weights were released by the authors of the papers, and could not be downloaded where this package was developed.
So the costs are computed from the configurations, and nothing was measured on the weights themselves.

| repo id | made from | parameters | memory | frames | tokens of a video | cache | licence of the card |
|---|---|---|---|---|---|---|---|
{large}

How they were checked:

{checked}

A licence of `unknown` means that the page of the official weights states none. Then `hf-videollm push` needs a licence
from you. `other` means that no single licence has all terms of the sources; the card lists them.

## Models that you build and train

There are no released weights of LinVT, IVA and FTFV.

| design | made with | parameters | memory | frames | tokens of a video | cache |
|---|---|---|---|---|---|---|
{built}

LinVT stands before an image-LLM, whose own size is not in this table:

| image-LLM of the paper | parameters of LinVT | licence of the image-LLM | how it loads |
|---|---|---|---|
{linvt}

## Variants

`hf-videollm quantize CHECKPOINT DST --preset PRESET` writes a variant, which is published beside the original.

| preset | repo id | what it is |
|---|---|---|
{variants}

## Cards and licences

`hf-videollm card FOLDER -o FOLDER/README.md` writes the model card of a checkpoint. Every number in it comes from a
file of the checkpoint or from a function that counts, and `--check README.md` refuses a card in which a number was
changed. A checkpoint inherits the terms of what it was made from. Conversions and builds record their sources in
`origin.json`; `--base-model ID` names others. [What is known of their licences](../model_cards/sources.yaml) has the
address where each was read; a licence that nobody read is named as unknown. A licence that is looser than that of a
source is refused, unless you pass `--licence-override`. This is no legal advice.
"""


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def costs(info: CheckpointInfo) -> tuple[str, str, str]:
    """Frames, tokens and cache of a video."""
    return f"{info.num_frames}", f"{info.tokens_per_video:,}", shown_as(info.kv_cache_bytes, "size")


def of_preset(name: str) -> CheckpointInfo:
    """The costs of a model at the size of a paper, from its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        find_preset(name).config().save_pretrained(folder)
        return describe_checkpoint(folder, memory=False)


def title_of(name: str) -> str:
    return next(design.title for design in DESIGNS.values() if design.checkpoint == name)


def small_row(entry: dict[str, Any]) -> str:
    folder = bundled_checkpoints()[entry["bundled"]]
    info = describe_checkpoint(folder, memory=False)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    shares: Any = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    for key in load_facts(f"checkpoints/{entry['bundled']}")["results"].split("/"):
        shares = shares[key]
    checked = ", ".join(f"{kind.replace('_', ' ')} {shown_as(share, 'percent')}" for kind, share in shares.items())
    link = f"[{checked}](../src/hf_videollm/assets/{entry['bundled']}/accuracy.json)"
    parameters = f"{info.parameters['total']:,}"
    name = f"`{OWNER}/{entry['id']}`"
    return row(name, title_of(entry["bundled"]), parameters, shown_as(size, "size"), *costs(info), link)


def large_row(entry: dict[str, Any]) -> str:
    info = of_preset(entry["preset"])
    with tempfile.TemporaryDirectory() as folder:
        licence = licence_of(folder, base_models=[entry["source"]]).suggested
    made = f"`{entry['source']}`, `{entry['made_by']}`"
    memory = shown_as(info.weight_bytes["bfloat16"], "size")
    parameters = f"{info.parameters['total']:,}"
    return row(f"`{OWNER}/{entry['id']}`", made, parameters, memory, *costs(info), f"`{licence}`")


def built_row(preset: str) -> str:
    info, design = of_preset(preset), find_preset(preset).config().model_type
    memory = shown_as(info.weight_bytes["bfloat16"], "size")
    return row(
        DESIGNS[design].title, f"`hf-videollm build {design}`", f"{info.parameters['total']:,}", memory, *costs(info)
    )


def checked_lines(designs: list[str]) -> list[str]:
    """What the cards say about the checks of these designs."""
    lines = []
    for name in designs:
        sentences = " ".join(load_facts(f"designs/{name}")["checked"])
        lines.append(f"- {DESIGNS[name].title}: {sentences}")
    return lines


def linvt_rows() -> list[str]:
    totals = {name: entry.total for entry in linvt_table().rows for name in entry.image_llms}
    rows = []
    for entry in load_facts("designs/linvt")["image_llms"]:
        licence = known_sources()["models"][entry["id"]].get("licence", "unknown")
        rows.append(row(f"{entry['title']}, `{entry['id']}`", f"{totals[entry['table']]:,}", licence, entry["loads"]))
    return rows


def page() -> str:
    """The whole page."""
    models = load_facts("published")["models"]
    large = [entry for entry in models if "preset" in entry]
    designs = list(dict.fromkeys(find_preset(entry["preset"]).config().model_type for entry in large))
    return TEMPLATE.format(
        small="\n".join(small_row(entry) for entry in models if "bundled" in entry),
        large="\n".join(map(large_row, large)),
        checked="\n".join(checked_lines(designs)),
        built="\n".join(map(built_row, ("iva", "ftfv"))),
        linvt="\n".join(linvt_rows()),
        variants="\n".join(
            row(f"`{preset.name}`", f"`{OWNER}/NAME{preset.suffix}`", preset.summary) for preset in PRESETS.values()
        ),
    )


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
    print(f"Wrote {DOCUMENT}.")
