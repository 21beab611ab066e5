"""`hf-videollm results`: finished evaluations side by side, with what the papers print."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import note, print_drawing

__all__ = ["results"]

FORMATS = ("table", "markdown", "csv", "html", "json")
# Suffix of the output -> form, where none is named.
BY_SUFFIX = {".md": "markdown", ".csv": "csv", ".html": "html", ".htm": "html", ".json": "json", ".txt": "table"}


def results(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER...", help="Folders of runs, or folders of those: evaluations/MODEL[/TASK]."),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format", help=f"{', '.join(FORMATS)}; by the suffix of --output where it has one, table otherwise."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="File to write, instead of the terminal.")] = None,
    papers: Annotated[
        bool, typer.Option("--papers", help="Show what the papers print, in tables of their own.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="Compare two folders of runs item by item."),
    ] = None,
    max_items: Annotated[
        int | None, typer.Option("--items", min=0, help="Most items of each task on the HTML page; 200 by default.")
    ] = None,
    pictures: Annotated[
        bool | None, typer.Option("--pictures/--no-pictures", help="Show frames of the videos on the HTML page.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="SVG to draw the numbers in.")] = None,
    hub: Annotated[
        Path | None, typer.Option("--hub", help="YAML to write the model-index of one model's card into.")
    ] = None,
    eval_results: Annotated[
        Path | None,
        typer.Option("--eval-results", help="Folder of one model's repository, for its .eval_results/TASK.yaml."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Write runs with --limit for the Hub, too; their numbers are marked as partial."
        ),
    ] = False,
) -> None:
    """Put evaluations side by side.

    Numbers of papers are only shown with --papers, in tables of their own: nobody has measured them here.

    Examples:

      hf-videollm results evaluations --papers

      hf-videollm results evaluations --format html --output results.html

      hf-videollm results --compare evaluations/pllava-7b evaluations/linvt-1b

      hf-videollm results evaluations/pllava-7b --hub model-index.yaml --plot numbers.svg
    """
    form = _form(output_format, output)
    if form != "html" and (max_items is not None or pictures is not None):
        flag = "--items" if max_items is not None else "--pictures"
        raise ValueError(f"{flag} does something on the HTML page alone: leave it out, or take --format html.")
    if plot is not None and plot.suffix != ".svg":
        raise ValueError(f"--plot draws an SVG: give it a name that ends with .svg, not {plot.name}.")
    if partial and hub is None and eval_results is None:
        raise ValueError("--partial does nothing without --hub or --eval-results: leave it out.")
    from ..evaluation.report.report import make_report

    report = make_report(folders or [], papers, compare or ())
    # All that can fail comes before the first file is written.
    writings = list(_writings(report, plot, hub, eval_results, partial))
    for run in report.unfinished:
        note(f"note: {run.text}: the same evaluate command goes on with it.")
    if form == "table" and output is None:
        from ..evaluation.report.text_forms import as_drawing

        print_drawing(as_drawing(report))
    else:
        text = _text(form, report, max_items, pictures)
        if output is None:
            sys.stdout.write(text)
        else:
            writings.insert(0, (output, text))
    for path, text in writings:
        _write(path, text)


def _form(output_format: str | None, output: Path | None) -> str:
    from ..models.video_llm_option_names import did_you_mean

    if output_format is None:
        suffix = "" if output is None else output.suffix.lower()
        if suffix and suffix not in BY_SUFFIX:
            raise ValueError(
                f"--output {output}: no form has the suffix {suffix}; the known ones are {', '.join(BY_SUFFIX)}, or "
                "say --format."
            )
        return BY_SUFFIX.get(suffix, "table")
    if output_format not in FORMATS:
        raise ValueError(f"There is no format {output_format!r}: {did_you_mean(output_format, FORMATS)}")
    return output_format


def _text(form: str, report: Any, max_items: int | None, pictures: bool | None) -> str:
    from ..evaluation.report import text_forms

    if form == "html":
        from ..evaluation.report.page import MOST_ITEMS, as_page

        return as_page(report, MOST_ITEMS if max_items is None else max_items, pictures is not False)
    forms: dict[str, Callable[[Any], str]] = {
        "markdown": text_forms.as_markdown,
        "csv": text_forms.as_csv,
        "json": text_forms.as_json,
        "table": text_forms.as_plain,
    }
    return forms[form](report)


def _writings(report: Any, plot: Path | None, hub: Path | None, eval_results: Path | None, partial: bool) -> Any:
    """Path and text of the files other than the report itself."""
    if plot is not None:
        from ..evaluation.report.plot import as_svg

        yield plot, as_svg(report)
    if hub is not None:
        from ..evaluation.report.hub import model_index

        yield hub, model_index(report.runs, partial)
    if eval_results is not None:
        from ..evaluation.report.hub import eval_result_files

        files = eval_result_files(report.runs, partial)
        if without := sorted({run.task for run in report.runs if f".eval_results/{run.task}.yaml" not in files}):
            note(f"note: no .eval_results file for {', '.join(without)}: no number, or no dataset on the Hub.")
        yield from ((eval_results / name, text) for name, text in files.items())


def _write(path: Path, text: str) -> None:
    from ..atomic import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    note(f"{path} is written.")
