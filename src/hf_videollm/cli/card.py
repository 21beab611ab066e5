"""`hf-videollm card`: the model card of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from .output import note

__all__ = ["card"]


def card(
    folder: Annotated[str, typer.Argument(help="Folder of a checkpoint, or name of a bundled one.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write, usually FOLDER/README.md; pictures are written beside it."),
    ] = None,
    repo_id: Annotated[str | None, typer.Option(help="Id on the Hub, OWNER/NAME, which the snippets name.")] = None,
    revision: Annotated[str | None, typer.Option(help="Tag or commit on the Hub, which the snippets pin.")] = None,
    variant: Annotated[str | None, typer.Option(help="The folder is this quantized variant, such as nf4.")] = None,
    base_model: Annotated[
        list[str] | None, typer.Option("--base-model", help="Id of a model that it was made from; may be repeated.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Its licence, as the Hub names it; by default it follows from the base models.")
    ] = None,
    licence_name: Annotated[str | None, typer.Option(help="Name of the licence, for --licence other.")] = None,
    licence_link: Annotated[
        str | None, typer.Option(help="Address of its text, for --licence other; by default the file LICENSE.")
    ] = None,
    licence_override: Annotated[
        bool, typer.Option("--licence-override", help="Accept a licence that is looser than those of the base models.")
    ] = False,
    results: Annotated[
        list[Path] | None, typer.Option("--results", help="Folder of evaluate with its results; may be repeated.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Write nothing: check that this card states only numbers that files back.")
    ] = None,
) -> None:
    """Write the model card of a checkpoint: what it is, what it costs, how it was checked, and its licence.

    Every number in it comes from a file or from a function that counts; the end of the card says from which.

    Examples:

      hf-videollm card ./pllava-7b -o ./pllava-7b/README.md --repo-id me/pllava-7b --base-model ermu2001/pllava-7b

      hf-videollm card pllava-tiny

      hf-videollm card ./pllava-7b --check ./pllava-7b/README.md --repo-id me/pllava-7b
    """
    from ..hub.card import CardOptions, check_card, make_card, write_card
    from ..hub.licence_terms import UNKNOWN
    from ..known_models import find_model

    if check is not None and output is not None:
        raise ValueError("--check only reads a card: leave out --output.")
    place = find_model(folder)
    options = CardOptions(
        repo_id=repo_id,
        revision=revision,
        variant=variant,
        base_models=tuple(base_model or ()),
        licence=licence,
        licence_name=licence_name,
        licence_link=licence_link,
        licence_override=licence_override,
        results=tuple(results or ()),
    )
    if check is not None:
        check_card(check.read_text(encoding="utf-8"), place, options)
        print(f"{check}: every number is backed.")
        return
    if output is None:
        text = make_card(place, options).text
        print(text, end="")
    else:
        written = write_card(place, output, options)
        text = output.read_text(encoding="utf-8")
        print(f"Written: {', '.join(str(path) for path in written)}")
    if f"\nlicense: {UNKNOWN}\n" in text:
        note("note: the licence is unknown: name it with --licence, or the model it was made from with --base-model.")
