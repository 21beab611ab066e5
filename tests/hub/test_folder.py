"""Folders that must not be published are refused in one line, which names the file; everything else of them may be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hf_videollm import CheckpointError, default_checkpoint
from hf_videollm.hub.folder import check_folder
from hf_videollm.hub.remote_code import missing_code
from hf_videollm.hub.secret_files import SECRET_TEXTS, find_secret, is_secret_name

BLOCK = "-" * 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "iva")


def edit_json(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def test_a_good_folder(folder: Path) -> None:
    for name in (
        ".DS_Store",
        "old.pyc",
        "__pycache__/x.py",
        "checkpoint-500/optimizer.pt",
        ".git/config",
        "notes/how.txt",
        ".hidden/x",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    checked = check_folder(folder)
    assert checked.design.name == "iva"
    assert checked.quantization is None
    assert {"config.json", "model.safetensors", "tokenizer.json", "notes/how.txt"} <= checked.files.keys()
    assert checked.left_out == (".DS_Store", ".git/", ".hidden/", "__pycache__/", "checkpoint-500/", "old.pyc")


def test_a_snapshot_of_the_cache_may_be_pushed_again(folder: Path, tmp_path: Path) -> None:
    """Its files are links into the cache of the same repository."""
    blobs = tmp_path / "models--me--iva" / "blobs"
    snapshot = tmp_path / "models--me--iva" / "snapshots" / "0123"
    shutil.move(folder, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert check_folder(snapshot).files.keys() == {file.name for file in blobs.iterdir()}


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def write(file: Path, text: str, encoding: str = "utf-8") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding=encoding)


# What is done to a good folder -> what the error says.
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "is no checkpoint, because it has no config.json"),
    "damaged config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is no readable JSON"),
    "other model": (lambda folder: edit_json(folder / "config.json", model_type="bert"), "of type 'bert'.*none of"),
    "misspelt": (lambda folder: edit_json(folder / "config.json", model_type="iv"), "did you mean iva"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "truncated": (truncate, r"model\.safetensors is truncated"),
    "other weights": (
        lambda folder: shutil.copy(Path(default_checkpoint("pllava-tiny"), "model.safetensors"), folder),
        r"model\.safetensors|missing|does not",
    ),
    "stray weights": (
        lambda folder: shutil.copy(folder / "model.safetensors", folder / "model-00002-of-00002.safetensors"),
        "model-00002-of-00002.safetensors is not among the weights of the checkpoint",
    ),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), r"processor_config\.json is missing"),
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), r"chat_template\.jinja is missing"),
    "damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), r"tokenizer\.json"),
    "optimizer": (lambda folder: (folder / "optimizer.pt").write_bytes(b"\x80"), r"optimizer\.pt in .* is a pickle"),
    "unfinished": (lambda folder: (folder / "model.incomplete").write_text(""), "is an unfinished file"),
    "pointer": (
        lambda folder: (folder / "x.txt").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a pointer of Git LFS",
    ),
    "link out": (lambda folder: (folder / "passwd.txt").symlink_to("/etc/passwd"), "leads out of the checkpoint"),
    "linked folder": (lambda folder: (folder / "more").symlink_to(folder.parent), "is a link to a folder"),
    "hidden .env": (lambda folder: (folder / ".env").write_text(""), r"^\.env is a file for secrets.*Nothing was upl"),
    "key below": (
        lambda folder: [(folder / "keys").mkdir(), (folder / "keys" / "id_ed25519").write_text("")],
        "^keys/id_ed25519 is a file for secrets",
    ),
    "ssh folder": (
        lambda folder: [(folder / ".ssh").mkdir(), (folder / ".ssh" / "config").write_text("")],
        r"^\.ssh/config is a file for secrets",
    ),
    "token": (
        lambda folder: (folder / "run.log").write_text(f"a\nlogin with hf_{'aB3' * 12}\n"),
        "run.log holds what looks like a token of the Hugging Face Hub in line 2",
    ),
    "private key": (
        lambda folder: (folder / "notes.md").write_text(f"{BLOCK}BEGIN RSA PRIVATE KEY{BLOCK}\nabc"),
        "notes.md holds what looks like a private key in line 1",
    ),
    "token of the cache": (
        lambda folder: write(folder / ".cache" / "huggingface" / "token", "x"),
        r"^\.cache/huggingface/token is a file for secrets",
    ),
    "address with a token": (
        lambda folder: write(folder / ".git" / "config", f"url = https://me:hf_{'aB3' * 12}@huggingface.co/me/x"),
        r"^\.git/config holds what looks like a token of the Hugging Face Hub",
    ),
    "token in UTF-16": (
        lambda folder: write(folder / "notes.txt", f"hf_{'aB3' * 12}", "utf-16"),
        r"^notes\.txt holds what looks like a token of the Hugging Face Hub",
    ),
    "token in the metadata of weights": (
        lambda folder: save_file(
            load_file(folder / "model.safetensors"), folder / "model.safetensors", {"note": f"hf_{'aB3' * 12}"}
        ),
        r"^model\.safetensors holds what looks like a token of the Hugging Face Hub",
    ),
    "token in the name of a file": (
        lambda folder: write(folder / f"log-of-hf_{'aB3' * 12}.txt", "x"),
        r"^A file in the folder has what looks like a token of the Hugging Face Hub in its name",
    ),
    "own token": (lambda folder: edit_json(folder / "config.json", hub="my-password"), "looks like your own token"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_folder_is_refused_in_one_line(name: str, folder: Path) -> None:
    spoil, told = REFUSED[name]
    spoil(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        check_folder(folder, ["my-password"])
    message = str(caught.value)
    assert "\n" not in message.strip()
    assert "my-password" not in message
    assert "aB3aB3" not in message


def test_a_folder_above_the_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json; did you mean .*/iva\?"):
        check_folder(folder.parent)
    with pytest.raises(CheckpointError, match="is no folder"):
        check_folder(folder / "config.json")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"hf_{'x' * 34}", "a token of the Hugging Face Hub"),
        (f"AKIA{'A1' * 8}", "an access key of AWS"),
        (f"{BLOCK}BEGIN OPENSSH PRIVATE KEY{BLOCK}", "a private key"),
        (f"ghp_{'a' * 36}", "a token of GitHub"),
        (f"sk-ant-{'a1' * 20}", "a key of OpenAI or Anthropic"),
        (f"AIza{'a' * 35}", "a key of Google"),
        (f"xoxb-{'1' * 24}", "a token of Slack"),
        (f"WANDB_API_KEY={'a1' * 20}", "a key beside its name"),
        (f"aws_secret_access_key = {'a/1+' * 10}", "a key beside its name"),
    ],
)
def test_each_kind_of_secret_is_found(text: str, kind: str, tmp_path: Path) -> None:
    """And, as a control, not in a text that only looks a little like it."""
    assert kind in SECRET_TEXTS
    file = tmp_path / "x.txt"
    file.write_text(f'first\n"{text}"')
    assert find_secret(file) == (kind, 2)
    file.write_text(f'first\n"{text[: len(text) // 2]}"')
    assert find_secret(file) is None


def test_usual_names_are_no_secrets() -> None:
    usual = ("config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "environment.yml")
    secret = (".env.local", "prod.env", "server.PEM", "x/.netrc", "token")
    assert [name for name in (*usual, *secret) if is_secret_name(name)] == list(secret)


def test_code_comes_from_the_package_or_from_the_folder_but_never_from_both(folder: Path) -> None:
    design = check_folder(folder).design
    added = missing_code(folder, design)
    assert {"modeling_iva.py", "processing_iva.py", "pipeline_video_text_to_text.py", "media_video.py"} <= added.keys()
    for name, file in added.items():
        shutil.copy(file, folder / name)
    assert missing_code(folder, design) == {}
    (folder / "media_video.py").unlink()
    with pytest.raises(CheckpointError, match=r"needs media_video\.py, which is missing"):
        missing_code(folder, design)
    (folder / "processing_iva.py").unlink()
    with pytest.raises(CheckpointError, match=r"but not processing_iva\.py, which its configuration names"):
        missing_code(folder, design)


def test_code_of_another_repository_is_refused(folder: Path) -> None:
    design = check_folder(folder).design
    edit_json(folder / "config.json", auto_map={"AutoModel": "other/repo--modeling_iva.IvaModel"})
    with pytest.raises(CheckpointError, match="takes code from another repository"):
        missing_code(folder, design)
    edit_json(folder / "config.json", auto_map={}, custom_pipelines={})
    for name in ("processor_config.json", "tokenizer_config.json"):
        edit_json(folder / name, auto_map={})
    edit_json(folder / "processor_config.json", video_processor={}, image_processor={})
    with pytest.raises(CheckpointError, match="names no code"):
        missing_code(folder, design)
