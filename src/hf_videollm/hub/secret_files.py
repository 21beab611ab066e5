"""Finds passwords, keys and tokens in files that are about to be published."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from ..models.errors import CheckpointError

# Names of files that programs use for secrets. They are compared without regard to upper and lower case.
SECRET_NAMES = (
    ".env",
    ".env.*",
    "*.env",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    ".netrc",
    "_netrc",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".git-credentials",
    ".pgpass",
    "credentials",
    "credentials.json",
    "service_account*.json",
    "token",
    ".token",
    "stored_tokens",
    "secrets.json",
    "secrets.y*ml",
)
SECRET_FOLDERS = (".ssh", ".aws", ".gnupg", ".kube", ".docker")
# What each kind of secret looks like.
SECRET_TEXTS: Mapping[str, re.Pattern[bytes]] = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "a token of the Hugging Face Hub": re.compile(rb"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b"),
    "an access key of AWS": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token of GitHub": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b"),
    "a key of OpenAI or Anthropic": re.compile(rb"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}"),
    "a key of Google": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    # As programs read it from the environment or from settings, for keys that have no form of their own.
    "a key beside its name": re.compile(
        rb"(?i)\b(?:aws_secret_access_key|wandb_api_key|comet_api_key|clearml_api_secret_key|neptune_api_token)\b"
        rb"[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+_-]{16,}"
    ),
    "a token of Slack": re.compile(rb"\bxox[abeprs]-[0-9A-Za-z-]{20,}"),
}
# Weights hold text at their beginning only, and reading them would take long. Other files are smaller than this.
WEIGHTS = ".safetensors"
LARGEST_TEXT = 64 * 2**20


def refuse_secrets(files: Mapping[str, Path], tokens: Iterable[str] = ()) -> None:
    """Refuse to publish files that look like secrets or hold some.

    Args:
        files: path in the repository -> file.
        tokens: secrets of this user, which must not stand in any of the files.

    Raises:
        CheckpointError: there is such a file; the message names it and the kind of the secret, but not the secret.
    """
    for path, file in files.items():
        if is_secret_name(path):
            raise CheckpointError(
                f"{path} is a file for secrets by its name: take it out of the folder before you push. Nothing was "
                "uploaded."
            )
        if kinds := _kinds(path.encode(), tokens):
            raise CheckpointError(
                f"A file in the folder has what looks like {kinds[0][1]} in its name: take it out before you push. "
                "Nothing was uploaded."
            )
        if found := find_secret(file, tokens):
            kind, line = found
            raise CheckpointError(
                f"{path} holds what looks like {kind} in line {line}: take it out before you push. Nothing was "
                "uploaded. (If it is a real one and others could read the file, it should be revoked.)"
            )


def is_secret_name(path: str) -> bool:
    """Whether a path is one that programs use for secrets."""
    *folders, name = path.lower().split("/")
    return any(fnmatch(name, pattern) for pattern in SECRET_NAMES) or any(part in SECRET_FOLDERS for part in folders)


def find_secret(file: Path, tokens: Iterable[str] = ()) -> tuple[str, int] | None:
    """The kind and the line of the first secret in a file; `None` if there is none. Values of weights are not read.

    Args:
        file: the file.
        tokens: further secrets to look for.
    """
    if file.suffix != WEIGHTS and file.stat().st_size > LARGEST_TEXT:
        return None
    content = _head_of_weights(file) if file.suffix == WEIGHTS else _as_text(file.read_bytes())
    found = _kinds(content, tokens)
    if not found:
        return None
    position, kind = found[0]
    return kind, content.count(b"\n", 0, position) + 1


def _kinds(content: bytes, tokens: Iterable[str]) -> list[tuple[int, str]]:
    """The place of the first secret of each kind, and the kind, in the order of the places."""
    patterns = dict(SECRET_TEXTS)
    if own := [re.escape(token.encode()) for token in tokens if token]:
        patterns["your own token"] = re.compile(b"|".join(own))
    return sorted((match.start(), kind) for kind, pattern in patterns.items() if (match := pattern.search(content)))


def _head_of_weights(file: Path) -> bytes:
    """The names and metadata at the beginning of a file of weights, which are text."""
    with file.open("rb") as stream:
        return stream.read(min(int.from_bytes(stream.read(8), "little"), LARGEST_TEXT))


def _as_text(content: bytes) -> bytes:
    """Texts in UTF-16, as some editors write them, in UTF-8; everything else as it is."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace").encode()
    return content


__all__ = ["SECRET_NAMES", "SECRET_TEXTS", "find_secret", "is_secret_name", "refuse_secrets"]
