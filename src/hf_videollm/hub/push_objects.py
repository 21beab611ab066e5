"""What `model.push_to_hub` and `processor.push_to_hub` do: they publish, or check, a complete repository."""

from pathlib import Path
from shutil import copyfile
from typing import Any

from ..designs import DESIGNS
from ..models.errors import one_line
from ..models.video_llm_option_names import names_options
from ..origin import ORIGIN_FILE, carry_record
from .checkpoint import save_checkpoint
from .licence_file import LICENCE_PATTERNS
from .places import place_of
from .publish import MAIN
from .push import push, working_folder
from .push_errors import PushError, explain, patiently

# transformers' own default for `push_to_hub`.
MAX_SHARD_SIZE = "50GB"
# Texts of a checkpoint that still hold when its model is saved again: where it comes from, and under which terms.
KEPT_TEXTS = (ORIGIN_FILE, *LICENCE_PATTERNS)


@names_options
def push_model(
    model: Any,
    processor: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    tags: list[str] | None = None,
    variants: tuple[str, ...] | list[str] = (),
    licence: str | None = None,
    licence_name: str | None = None,
    licence_link: str | None = None,
    licence_override: bool = False,
    base_models: tuple[str, ...] | list[str] = (),
) -> str:
    """Save a model with its processor, and publish both with `push`.

    Args:
        model: a model of a design, with its head.
        processor: its processor; `None` takes that of the checkpoint which the model was loaded from.
        repo_id: name of the repository.
        commit_message: title of the commit.
        commit_description: text of the commit.
        private: make a new repository private.
        token: token of the Hub; `None` or True takes the one that the user logged in with.
        revision: branch to push to.
        create_pr: not possible here.
        max_shard_size: maximum size of a weight file.
        tags: further tags for the card.
        variants: as in `push`.
        licence: as in `push`.
        licence_name: as in `push`.
        licence_link: as in `push`.
        licence_override: as in `push`.
        base_models: as in `push`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the model has no head, no processor is known, or an option is not possible; and all errors of `push`
            and `save_checkpoint`.
    """
    if create_pr:
        raise ValueError(
            "push_to_hub cannot open a pull request: leave out create_pr, or push to a branch "
            "(revision='my-branch') and open it on the Hub."
        )
    _refuse_without_head(model)
    source = getattr(model, "name_or_path", "") or ""
    processor = processor if processor is not None else _processor_of(source, repo_id)
    with working_folder() as work:
        folder = save_checkpoint(model, processor, work / "checkpoint", max_shard_size=max_shard_size)
        _copy_texts(source, folder, repo_id)
        report = push(
            folder,
            repo_id,
            private=private,
            variants=variants,
            revision=revision or MAIN,
            licence=licence,
            licence_name=licence_name,
            licence_link=licence_link,
            licence_override=licence_override,
            base_models=base_models,
            token=_token(token),
            message=commit_message,
            description=commit_description,
            tags=tags or (),
        )
    return str(report.repos[0].url)


@names_options
def push_processor(
    processor: Any,
    repo_id: str,
    *,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    tags: list[str] | None = None,
) -> str:
    """Check that the Hub has this processor beside its model. Nothing is uploaded.

    Args:
        processor: the processor.
        repo_id: the repository that the model was pushed to.
        token: token of the Hub; `None` or True takes the one that the user logged in with.
        revision: branch that the model was pushed to.
        commit_message: of no effect, like all that follow: the commit of the model has them.
        commit_description: of no effect.
        private: of no effect.
        create_pr: of no effect.
        max_shard_size: of no effect.
        tags: of no effect.

    Returns:
        The address of the commit that has it.

    Raises:
        ValueError: the repository has no model, or the model was pushed with another processor.
        PushError: the Hub refused, failed or did not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=_token(token))
    together = f"push both together: model.push_to_hub({repo_id!r}, processor=processor)."
    try:
        name = repo_id if "/" in repo_id else f"{patiently(api.whoami)['name']}/{repo_id}"
        if not patiently(lambda: api.repo_exists(name)):
            raise ValueError(f"{name} does not exist yet, and a processor alone is no use to anybody; {together}")
        info = patiently(lambda: api.model_info(name, revision=revision or MAIN))
        entries = patiently(lambda: list(api.list_repo_tree(name, recursive=True, revision=info.sha)))
    except ValueError:
        raise
    # The client passes on errors of several libraries.
    except Exception as error:
        meaning = explain(error, repo_id, api.endpoint)
        if meaning is None:
            raise
        raise PushError(f"{repo_id}: {meaning}. Nothing was published.") from error
    there = {entry.path: _identity(entry) for entry in entries if hasattr(entry, "blob_id")}
    if "config.json" not in there:
        raise ValueError(f"{name} has no model, and a processor alone is no use to anybody; {together}")
    if other := _differing(processor, there):
        raise ValueError(f"{name} has another processor than this one ({', '.join(other)} differ); {together}")
    return f"{api.endpoint}/{name}/tree/{info.sha}"


def _refuse_without_head(model: Any) -> None:
    design = DESIGNS.get(getattr(getattr(model, "config", None), "model_type", ""))
    complete = None if design is None else design.generating_model.split(":")[1]
    if complete is not None and type(model).__name__ != complete:
        raise ValueError(
            f"{type(model).__name__} cannot be pushed, because it has no language-model head and could not answer: "
            f"push a {complete}."
        )


def _processor_of(source: str, repo_id: str) -> Any:
    """The processor of the checkpoint that a model was loaded from."""
    from transformers import AutoProcessor

    try:
        if not source:
            raise ValueError("it was not loaded from a checkpoint")
        return AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        reason = one_line(error, 200)
        raise ValueError(
            f"The processor of this model is not known ({reason}), and the repository would lack it: "
            f"model.push_to_hub({repo_id!r}, processor=processor)."
        ) from error


def _copy_texts(source: str, folder: Path, repo_id: str) -> None:
    """Copy what the checkpoint of a model says about its origin and licence."""
    if not source:
        return
    try:
        place = place_of(source)
    except FileNotFoundError:  # the folder was moved since, or the model was made in this process
        return
    # A model that goes back to its own repository does not come from this repository.
    if source != repo_id and not (folder / ORIGIN_FILE).exists():
        carry_record(place, folder, "push_to_hub")
    for pattern in KEPT_TEXTS:
        for file in sorted(place.glob(pattern)):
            if file.is_file() and not (folder / file.name).exists():
                copyfile(file, folder / file.name)


def _token(token: bool | str | None) -> str | None:
    if token is False:
        raise ValueError("token=False is no login, and nobody may push without one: leave it out, or pass a token.")
    return None if token is None or token is True else token


def _identity(entry: Any) -> str:
    """What identifies the content of a file of the Hub: the SHA-256 of a large file, git's hash of another one."""
    return str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)


def _differing(processor: Any, there: dict[str, str]) -> list[str]:
    """Names of the processor's files that the repository does not have in this form. Code is not compared."""
    import hashlib

    with working_folder() as work:
        processor.save_pretrained(work)
        different = []
        for file in sorted(path for path in work.iterdir() if path.is_file() and path.suffix != ".py"):
            content = file.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if there.get(file.name) not in (git, hashlib.sha256(content).hexdigest()):
                different.append(file.name)
    return different


__all__ = ["push_model", "push_processor"]
