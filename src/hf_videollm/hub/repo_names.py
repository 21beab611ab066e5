"""Names of repositories on the Hub."""

import re

__all__ = ["UNKNOWN_OWNER", "check_repo_id", "is_repo_id"]

# Stands in snippets for the account that will publish a checkpoint.
UNKNOWN_OWNER = "OWNER"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repo_id(name: str) -> None:
    """Refuse a name that is not possible on the Hub, or that names no owner.

    Raises:
        ValueError: the message says how a name is written.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).split(":")[0].strip().rstrip(".")
        raise ValueError(
            f"{name!r} cannot be the name of a repository ({reason}): write OWNER/NAME with letters, digits, '-', "
            "'_' and '.', at most 96 characters, such as me/pllava-7b."
        ) from None
    if "/" not in name:
        raise ValueError(f"{name!r} names no owner: write OWNER/NAME, such as me/{name}.")


def is_repo_id(name: str) -> bool:
    """Whether a name is written as OWNER/NAME, as the Hub writes the names of models and data sets.

    Example:
        >>> is_repo_id("me/pllava-7b"), is_repo_id("pllava-tiny"), is_repo_id("./me/pllava-7b")
        (True, False, False)
    """
    return _REPO_ID.fullmatch(name) is not None
