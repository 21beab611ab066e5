"""Publishes a checkpoint, and its quantized variants, as complete repositories on the Hugging Face Hub."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..atomic import atomic_folder
from ..atomic_claim import Claim, remove_dead_claims
from ..disk_full import name_full_disk
from ..known_models import find_model
from ..models.video_llm_option_names import names_options
from .folder import CARD, CheckpointFolder, check_folder
from .licence_file import LICENCE_PATTERNS
from .places import refuse_inside
from .publish import MAIN, Prepared, Publisher
from .published_card import CardWish, name_original, write_card, write_licence
from .push_errors import PushError
from .push_progress import copy_files, hash_files, shown_progress, step_line
from .push_report import PushReport, RepoReport, sizes_of
from .remote_code import missing_code
from .repo_names import check_repo_id

GENERATION = "generation_config.json"
# Names of branches that git allows, and that need no quotes in a shell. The Hub has those of git.
BRANCH = re.compile(r"(?!refs/)(?!.*(?:\.\.|//|\.lock$|/\.))[A-Za-z0-9][\w./-]*(?<![./])", re.ASCII)
LONGEST_BRANCH = 200


@names_options
def push(
    checkpoint: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    variants: Sequence[str] = (),
    revision: str = MAIN,
    dry_run: bool = False,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    licence: str | None = None,
    licence_name: str | None = None,
    licence_link: str | None = None,
    licence_override: bool = False,
    base_models: Sequence[str] = (),
    token: str | None = None,
    message: str | None = None,
    description: str | None = None,
    tags: Sequence[str] = (),
    results: Sequence[str | os.PathLike[str]] = (),
    progress: bool = False,
) -> PushReport:
    """Publish a checkpoint with all that it needs to be loaded by others: code, pipeline, processor, card, licence.

    Everything is prepared and checked on this machine first. Then the large files of all repositories are uploaded,
    and then each repository gets one commit. A repository is never half-published; after a failure, the same call
    uploads only what is missing. A tag is added to each commit, and the snippet of the card names it, so that users
    run the code that they have read.

    Args:
        checkpoint: folder, or name of a bundled checkpoint.
        repo_id: `OWNER/NAME`, or `NAME` for the user of the token.
        private: make new repositories private.
        variants: presets of quantization, such as `nf4`, `int8` or `bf16`. Each variant gets a repository beside this
            one, `OWNER/NAME-nf4`, and all are gathered in a collection.
        revision: branch to push to. It is made if it does not exist.
        dry_run: publish nothing, but write the folders, exactly as they would be published, into `output`.
        output: folder for `dry_run`; `NAME.dry-run` in the working folder by default.
        overwrite: replace `output` if it is not empty.
        licence: licence of the repository, as the Hub names it; by default it follows from those of its sources.
        licence_name: name of the licence, if `licence` is `other`.
        licence_link: address of its text; not needed if the folder has a file LICENSE.
        licence_override: publish with `licence` although a source of the model has a stricter one.
        base_models: ids of the models that it was made from, if the folder does not say so.
        token: token of the Hub; `None` takes the one that the user logged in with.
        message: title of the commits.
        description: text of the commits.
        tags: further tags for the card.
        results: folders of `hf-videollm evaluate` with results of this checkpoint, for the card.
        progress: show on a terminal how far hashing, quantization, copies and uploads are, also where progress bars of
            libraries are hidden.

    Returns:
        What was published, or what would be.

    Raises:
        CheckpointError: the folder is no complete checkpoint, or holds what must not be published, such as a token.
        CardError: the card is not valid, or no licence is known.
        LicenceError: the licence is looser than that of a source of the model.
        PresetError: there is no such variant, or it cannot be made on this machine.
        ValueError: the name of the repository or of the branch is not possible.
        PushError: the Hub refused, failed or did not answer; the message says what is published.
        DiskFullError: there is no room for variants, or for the folders of `dry_run`.

    Example:
        >>> from hf_videollm.hub.push import push
        >>> report = push("./pllava-7b", "me/pllava-7b", variants=["nf4"], dry_run=True)  # doctest: +SKIP
        >>> report.repos[1].repo_id  # doctest: +SKIP
        'me/pllava-7b-nf4'
    """
    from huggingface_hub import get_token

    if not dry_run and (output is not None or overwrite):
        option = f"output={output}" if output is not None else f"overwrite={overwrite}"
        raise ValueError(f"{option} is for dry_run alone: a push writes no folder.")
    _check_branch(revision)
    publisher = Publisher(token, private, revision, message or Publisher.message, description)
    if "/" not in repo_id and not dry_run:
        repo_id = f"{publisher.user()}/{repo_id}"
    presets = _find_presets(variants)
    names = _repo_ids(repo_id, [preset.suffix for preset in presets])
    source = Path(find_model(checkpoint))
    checked = check_folder(source, [found for found in (token, get_token()) if found])
    wish = CardWish(
        licence=licence,
        licence_name=licence_name,
        licence_link=licence_link,
        licence_override=licence_override,
        base_models=tuple(base_models),
        tags=tuple(tags),
        results=tuple(Path(folder) for folder in results),
    )
    destination = Path(output or f"{names[0].split('/')[1]}.dry-run")
    if dry_run:
        refuse_inside(source, destination, "--output")
    # Begins before the work, so that a destination that must not be replaced is an error at once.
    written = atomic_folder(destination, overwrite=overwrite) if dry_run else nullcontext()
    with working_folder() as work, written as temporary:
        prepared = [_prepare(checked, names[0], None, work / "original", wish, progress)]
        texts = _texts(prepared[0].files)
        card = prepared[0].files[CARD]
        named, wish = wish.base_models, wish.of_variant(card) if presets else wish
        for preset, name in zip(presets, names[1:], strict=True):
            _quantize(source, work / preset.variant, preset, progress)
            name_original(work / preset.variant, names[0], card, named)
            folder = check_folder(work / preset.variant)
            folder = replace(folder, files=dict(sorted({**texts, **folder.files}.items())))
            prepared.append(_prepare(folder, name, preset.variant, work / f"card-{preset.variant}", wish, progress))
        if temporary is not None:
            reports = _write_folders(prepared, temporary, destination, progress)
            return PushReport(tuple(reports), dry_run=True, branch=revision, private=private)
        title = names[0].split("/")[1] if presets else None
        with shown_progress(progress):
            done, collection = publisher.publish(prepared, title)
    return PushReport(tuple(done), collection, branch=revision, private=private)


def _check_branch(name: str) -> None:
    if len(name) > LONGEST_BRANCH or BRANCH.fullmatch(name) is None:
        raise ValueError(
            f"--revision {name!r} cannot be the name of a branch: write letters, digits, '-', '_', '.' and '/', "
            "beginning with a letter or a digit, such as v1.0."
        )


def _find_presets(variants: Sequence[str]) -> list[Any]:
    """The presets of the variants, each once."""
    if not variants:
        return []
    from .presets import find_preset

    presets = [find_preset(name) for name in variants]
    if len({preset.name for preset in presets}) < len(presets):
        raise ValueError(f"--variants {','.join(variants)} names a variant twice: name each once.")
    return presets


def _repo_ids(repo_id: str, suffixes: Sequence[str]) -> list[str]:
    """The names of all repositories.

    Raises:
        ValueError: a name is not possible on the Hub.
    """
    names = [repo_id, *(f"{repo_id}{suffix}" for suffix in suffixes)]
    for name in names:
        check_repo_id(name)
    return names


def _texts(files: Mapping[str, Path]) -> dict[str, Path]:
    """The licences and notices of a repository, which hold for its variants, too."""
    return {path: file for path, file in files.items() if any(fnmatch(path, one) for one in LICENCE_PATTERNS)}


def _quantize(source: Path, destination: Path, preset: Any, progress: bool) -> None:
    from .quantize import quantize

    with step_line(preset.name, progress) as tell:
        quantize(source, destination, preset=preset.name, progress=tell)


def _prepare(
    folder: CheckpointFolder, repo_id: str, variant: str | None, work: Path, wish: CardWish, progress: bool
) -> Prepared:
    """Collect the files of a repository, and write those that the folder lacks into `work`."""
    work.mkdir(exist_ok=True)
    files = {**folder.files, **missing_code(folder.path, folder.design)}
    if GENERATION not in files:
        files[GENERATION] = _write_generation(folder, work)
    own = files.pop(CARD, None)
    if variant is None:
        files |= write_licence(folder.path, own, work, wish)
    digests = hash_files(files, f"Hashing {repo_id}", progress)
    tag = content_tag(digests)
    files |= write_card(folder.path, own, work, names=files, repo_id=repo_id, revision=tag, variant=variant, wish=wish)
    report = RepoReport(repo_id, variant, sizes_of(files), tag, folder.left_out)
    return Prepared(report, dict(sorted(files.items())), digests)


def _write_generation(folder: CheckpointFolder, work: Path) -> Path:
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    GenerationConfig.from_model_config(config).save_pretrained(work)
    return work / GENERATION


def content_tag(digests: Mapping[str, bytes]) -> str:
    """A name for exactly these files: `files-` and the beginning of a SHA-256 of their paths and contents.

    A commit cannot state its own hash. The tag is known before the commit, so the card can state it.

    Args:
        digests: path in the repository -> SHA-256 of the file.
    """
    digest = sha256()
    for path in sorted(digests):
        digest.update(f"{path}\0{digests[path].hex()}\n".encode())
    return f"files-{digest.hexdigest()[:12]}"


def _write_folders(repos: Sequence[Prepared], temporary: Path, destination: Path, progress: bool) -> list[RepoReport]:
    """Write the folders as they would be published into a temporary folder, which becomes `destination`."""
    for repo in repos:
        name = repo.report.repo_id.split("/")[1]
        copy_files(repo.files, temporary / name, f"Copying {name}", progress)
    return [replace(repo.report, folder=str(destination / repo.report.repo_id.split("/")[1])) for repo in repos]


@contextmanager
def working_folder() -> Iterator[Path]:
    """Give a temporary folder. What killed runs of this user left is removed at the beginning."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    place = Path(tempfile.gettempdir()) / f"hf_videollm_push_{user}"
    remove_dead_claims(place)
    with name_full_disk(place), Claim.make(place) as claim:
        claim.content.mkdir(mode=0o700)
        yield claim.content


__all__ = ["PushError", "PushReport", "RepoReport", "content_tag", "push", "working_folder"]
