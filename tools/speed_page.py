"""Write the numbers of the benchmarks into `docs/measured/speed.md` and into the table "Speed" of README.md.

`python tools/speed_page.py`. All numbers come from `benchmarks/results/*.json`; `tests/test_speed_page.py` fails when a
page is old.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE, README = REPOSITORY / "docs" / "measured" / "speed.md", REPOSITORY / "README.md"
HEAD = "| what, compared with what | ratio | command |\n|---|---|---|\n"
# Its tables are on a page of their own.
ELSEWHERE = {"quantized_cpu": "[Quantized loading](../quantized.md)"}
BEGINNING = """# Speed

`python tools/speed_page.py` writes this page from the JSON files in `benchmarks/results/`; do not edit it by hand.
`python -m benchmarks --help` tells how to measure on your machine, and `python benchmarks/compare.py --help` how to
compare results. Each ratio compares two measurements of one run, on two CPU cores that other jobs used as well.

"""


@dataclass(frozen=True)
class Claim:
    """A row of the table of ratios.

    Attributes:
        text: what is compared with what.
        file: name of the result without `_cpu.json`.
        ratio: text in which `{0}`, `{1}` ... are shares, and `{0.times}` says how many times.
        places: where the numbers are in the results, one for each share.
        in_readme: whether README.md has this row, too.
    """

    text: str
    file: str
    ratio: str
    places: tuple[str, ...]
    in_readme: bool = False


DESIGNS = ("pllava", "videollama2", "videollama2_av", "ftfv", "iva", "linvt")
OF_EACH_DESIGN = "{0} times in PLLaVA, {1} in VideoLLaMA2, {2} in it with sound, {3} in FTFV, {4} in IVA, {5} in LinVT"

CLAIMS = (
    Claim(
        "8 questions in one batch, compared with one by one (as the original code runs)",
        "pllava",
        "{0} of the time",
        ("answers_to_8_questions.as_a_batch",),
        in_readme=True,
    ),
    Claim(
        "4 beams: videos encoded once for each row, compared with once for each beam",
        "pllava",
        "{0} of the time",
        ("beams_4.encode_once/beams_4.encode_every_beam",),
    ),
    Claim(
        "turning 16 frames of 720p into pixel values, compared with transformers' LLaVA-NeXT-Video processor",
        "pllava",
        "{0} of the time; {1} times the time with the original's two resizes",
        ("frames_720p.plain", "frames_720p.pllava"),
    ),
    Claim(
        "a training batch of 4 conversations with 8 answers and about 2,570 tokens each, compared with the same batch "
        "without labels",
        "collator",
        "{0} times the time",
        ("8_answers.collator",),
    ),
    Claim(
        "reading 16 frames of a 720p video of 60 s, compared with the fastest of four other readers",
        "video_io",
        "{0} of the time",
        ("720p, GOP 250.readers@ours_by_this_wall",),
        in_readme=True,
    ),
    Claim(
        "reading other media, compared with the fastest of decord, decord2, torchcodec (exact) and PyAV by hand",
        "video_io",
        "{0} of the time for 16 frames of 720p with a keyframe a second, {1} for 64 frames of 10 minutes, {2} for 32 "
        "of an hour, {3} for one a second of 10 minutes; {4} times the time for 10 minutes of sound",
        (
            "720p, GOP 30.readers@ours_by_this_wall",
            "360p, 600 s.readers@ours_by_this_wall",
            "240p, 1 hour.readers@ours_by_this_wall",
            "360p, 1 fps of 600 s.readers@ours_by_this_wall",
            "sound, 600 s.readers@ours_by_this_wall",
        ),
    ),
    Claim(
        "the wait for data in a step of training on 16 frames of 720p (PLLaVA around SmolLM2-135M), compared with the "
        "step, with 2 workers",
        "data_wait",
        "{0} of the time with a filled cache, {1} with an empty one; without workers {2} and {3}",
        (
            "2_workers.warm_cache",
            "2_workers.cold_cache",
            "0_workers.warm_cache",
            "0_workers.cold_cache",
        ),
    ),
    Claim(
        "a still image in VideoLLaMA2: tower and first RegStage run once, compared with once for each repeated frame",
        "videollama2",
        "{0} of the time",
        ("four_images.once",),
    ),
    Claim(
        "STC connector on 4 clips at once, compared with clip by clip",
        "videollama2",
        "{0} times the time ({1} for clips of different lengths); with timm's RegStage instead of ours {2} ({3})",
        (
            "four_clips_of_8_frames.ours",
            "clips_of_8_16_4_4_8_frames.ours",
            "four_clips_of_8_frames.timm",
            "clips_of_8_16_4_4_8_frames.timm",
        ),
    ),
    Claim(
        "filter bank features of 30 s of sound, compared with transformers' `spectrogram`",
        "beats",
        "{0} of the time",
        ("fbank_30s.kaldi_fbank",),
    ),
    Claim(
        "one more question about a video that LinVT has already scored, compared with a new video",
        "linvt",
        "{0} of the time",
        ("questions.further_question",),
    ),
    Claim(
        "a second question in a session, to its first token, compared with the first, which reads the video "
        "(SmolLM2-135M, 2,304 visual tokens)",
        "session",
        "{0} of the time",
        ("time_to_first_token.second_question",),
    ),
    Claim(
        "five questions in one list, answers of 16 tokens, compared with one question",
        "session",
        "{0} times the time; {1} in a session that is open already",
        ("five_questions_16_tokens.five_in_a_list", "five_questions_16_tokens.five_in_an_open_session"),
    ),
    Claim(
        "likelihood of 4 options to each of 4 questions on one video: one encoding and one run over the video, "
        "compared with each option alone",
        "likelihood",
        "{0} of the time; {1} with the encoding alone shared",
        ("4_questions_of_4_options.kept_prompt", "4_questions_of_4_options.encoded_once"),
    ),
    Claim(
        "IVA's adapter in its folded form, compared with projecting every frame once",
        "iva",
        "{0} of the time",
        ("seconds_of_8_calls.folded/seconds_of_8_calls.every_frame_projected_once",),
    ),
    Claim(
        "IVA's prefill for one hour of video, streamed, compared with all frames at once",
        "iva",
        "{0} of the memory",
        ("memory_of_a_prefill.streamed.3600/memory_of_a_prefill.all_frames_at_once.3600",),
        in_readme=True,
    ),
    Claim(
        "converting a PLLaVA of float16, compared with `cp -r` of it",
        "convert",
        "{0} times the time by the clock; {1} with a cast to bfloat16, {2} with the LoRA merged, {3} with both (CPU "
        "time: {4}, {5}, {6}, {7})",
        tuple(
            f"time.{case}.{column}"
            for column in ("wall_times_cp", "times_cp")
            for case in ("convert", "float16_to_bfloat16", "merge", "merge_to_bfloat16")
        ),
    ),
    Claim(
        "memory of a conversion, compared with its largest shard",
        "convert",
        "{0} of its size; {1} with the LoRA merged",
        ("memory.convert", "memory.merge"),
    ),
    Claim(
        "multiply-adds of a prefill (language model of 4096, 2 layers), compared with the tower, connector and "
        "language model of the design called by hand on the same tokens; the logits are equal",
        "overhead",
        OF_EACH_DESIGN,
        tuple(f"random_4096_wide.{design}.prefill.gflop_times_by_hand" for design in DESIGNS),
    ),
    Claim(
        "the same in CPU time",
        "overhead",
        OF_EACH_DESIGN,
        tuple(f"random_4096_wide.{design}.prefill.median_of_rounds_times_by_hand" for design in DESIGNS),
    ),
    Claim(
        "operators of a decoded token, compared with the bare language model (SmolLM2-135M)",
        "overhead",
        OF_EACH_DESIGN,
        tuple(
            f"smollm2_135m.{design}.decoded_token.ours_operators/smollm2_135m.{design}.decoded_token.bare_operators"
            for design in DESIGNS
        ),
    ),
    Claim(
        "the same in CPU time",
        "overhead",
        OF_EACH_DESIGN,
        tuple(f"smollm2_135m.{design}.decoded_token.median_of_rounds_times_bare" for design in DESIGNS),
    ),
    Claim(
        "the first tokens of a search with 4 beams: a prompt of 600 tokens read once for each row, compared with once "
        "for each beam (SmolLM2-135M)",
        "decode_speed",
        "{0} of the time",
        ("beams_4_first_tokens.one_prefill/beams_4_first_tokens.prefill_for_each_beam",),
    ),
    Claim(
        "a static cache and `torch.compile`, compared with the usual cache (SmolLM2-135M, bfloat16)",
        "decode_speed",
        "{0} of the time, after a first call that compiles",
        ("compiled.static_cache_compiled/compiled.dynamic_cache",),
    ),
    Claim(
        "prompt lookup, compared with greedy decoding (SmolLM2-135M, bfloat16, in which rounding may change a word)",
        "decode_speed",
        "{0} of the time; {1} times the time with a smaller assistant, whose guesses are wrong",
        (
            "guesses_description.prompt_lookup/guesses_description.greedy",
            "guesses_description.assistant/guesses_description.greedy",
        ),
    ),
)


def read(name: str) -> dict[str, Any]:
    """A result. What `python -m benchmarks --out benchmarks/results` writes."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def find(results: Mapping[str, Any], place: str) -> Any:
    """What lies at a place: keys with a point between them."""
    for key in place.split("."):
        results = results[key]
    return results


def share(results: Mapping[str, Any], place: str) -> str:
    """The ratio of a row to its reference, or of two rows (`A/B`), with two digits and at least two places if small.

    A place may also be the ratio itself. `ROWS@COLUMN` is the largest ratio in a column, over the rows that are not
    ours: that to the fastest of the others.
    """
    first, _, second = place.partition("/")
    rows, _, column = place.partition("@")
    if column:
        value = max(row[column] for name, row in find(results, rows).items() if not name.startswith("hf_videollm"))
    elif second:
        value = amount(find(results, first)) / amount(find(results, second))
    else:
        row = find(results, first)
        value = row if isinstance(row, float) else next(row[key] for key in row if key.startswith("times_"))
    return f"{value:.2g}" if value < 1 else f"{value:.2f}"


def amount(found: Any) -> float:
    """A number, or what a row has measured."""
    columns = ("cpu_seconds", "seconds", "best_s", "mib")
    return float(next(found[key] for key in columns if key in found) if isinstance(found, Mapping) else found)


def claim_row(claim: Claim) -> str:
    """A row of the table of ratios."""
    content = read(f"{claim.file}_cpu")
    ratio = claim.ratio.format(*(share(content["results"], place) for place in claim.places))
    return f"| {claim.text} | {ratio} | `python benchmarks/bench_{claim.file}.py` |\n"


def claims(rows: Iterator[Claim]) -> str:
    return HEAD + "".join(map(claim_row, rows))


def cell(value: Any) -> str:
    """A value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(cell, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(one)}" for key, one in value.items()) or "none"
    return "none" if value is None else str(value).replace("|", "\\|")


def rows_of(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The children that are rows of a table: they hold values and no further dictionaries."""
    children = {name: child for name, child in node.items() if isinstance(child, Mapping)}
    return {
        name: child
        for name, child in children.items()
        if child and not any(isinstance(value, Mapping) for value in child.values())
    }


def tables(node: Mapping[str, Any], title: str = "") -> Iterator[str]:
    """The results as tables: one for each group of rows, and one for values that stand alone."""
    alone = {name: value for name, value in node.items() if not isinstance(value, Mapping)}
    if alone:
        yield table(title, ["value"], {name: [cell(value)] for name, value in alone.items()})
    rows = rows_of(node)
    if rows:
        columns = list(dict.fromkeys(column for row in rows.values() for column in row if column != "rounds"))
        cells = {name: [cell(row[key]) if key in row else "-" for key in columns] for name, row in rows.items()}
        yield table(title, columns, cells)
    for name, child in node.items():
        if isinstance(child, Mapping) and name not in rows:
            yield from tables(child, f"{title}, {name}" if title else name)


def table(title: str, columns: list[str], rows: Mapping[str, list[str]]) -> str:
    """A table of Markdown, whose first column has the names of the rows."""

    def words(name: str) -> str:
        return name.replace("_", " ")

    lines = [f"| {words(title) or 'what'} | {' | '.join(map(words, columns))} |", f"|---|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {words(name)} | {' | '.join(cells)} |" for name, cells in rows.items())]) + "\n"


def section(name: str) -> str:
    """A result: how it was measured, and all its numbers."""
    content = read(name)
    hardware, method = content.get("hardware", {}), content.get("method", {})
    facts = {
        "machine": content["machine"],
        "processor": hardware.get("gpu") or hardware.get("cpu") or content.get("processor"),
        "load before and after": [hardware["load_before"], hardware["load_after"]] if hardware else "not recorded",
        "date": content.get("date", "not recorded"),
        "revision": content.get("revision", "not recorded"),
        "arguments": " ".join(content["arguments"]) or "none" if "arguments" in content else "not recorded",
        "method": "; ".join(f"{key}: {cell(value)}" for key, value in method.items()) or "not recorded",
        "versions": ", ".join(f"{key} {value}" for key, value in content["versions"].items() if value),
    }
    named = {*facts, "form", "benchmark", "hardware", "processor", "seconds", "results"}
    own = [f"{key}: {cell(value)}" for key, value in content.items() if key not in named]
    facts["further facts"] = "; ".join(own) or "none"
    lines = [f"| {key} | {cell(value)} |\n" for key, value in facts.items()]
    if name in ELSEWHERE:
        numbers = f"The numbers are on the page {ELSEWHERE[name]}.\n"
    else:
        numbers = "\n".join(tables(content["results"]))
    return f"## {name.replace('_', ' ')}\n\n| the run | |\n|---|---|\n{''.join(lines)}\n{numbers}"


def page() -> str:
    """The whole page."""
    sections = [section(file.stem) for file in sorted(RESULTS.glob("*.json"))]
    return BEGINNING + claims(iter(CLAIMS)) + "\n" + "\n".join(sections)


def readme() -> str:
    """README.md with the rows of its table written anew."""
    text = README.read_text(encoding="utf-8")
    wanted = claims(claim for claim in CLAIMS if claim.in_readme)
    found, count = re.subn(re.escape(HEAD) + r"(?:\|.*\n)*", lambda _: wanted, text)
    if count != 1:
        raise ValueError(f"{README} has {count} tables with the head of the ratios instead of one.")
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    print(f"Wrote {PAGE} and {README}.")
