"""Whole pushes: every design travels through the real client, the Hub and a process without the package.

The designs are those of the bundled checkpoints, and VideoLLaMA2, which is the bundled VideoLLaMA2-AV without its ears.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ready_python
from fresh_process import WITHOUT_PACKAGE
from hub_server import Fault, HubServer, against, environment_of, hub_server
from huggingface_hub import ModelCard
from tiny_videollama2_checkpoint import write_videollama2
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from hf_videollm import CheckpointError, default_checkpoint
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.hub.card import CardOptions, LicenceError, write_card
from hf_videollm.hub.push import PushReport, _check_branch, push
from hf_videollm.hub.push_errors import PushError
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.video_llm_checked_processor import cast_row

SILENT = "videollama2-tiny"
NAMES = [*bundled_checkpoints(), SILENT]
QUESTION = "What colour is the shape?"
GREEDY = {"do_sample": False, "max_new_tokens": 4}
LOAD = """
import json, sys
from pathlib import Path
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

video, question, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
greedy = {"do_sample": False, "max_new_tokens": 4}
chat = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": question}]}]
report = {}
for name, revision in cases.items():
    trust = {"trust_remote_code": True, "revision": revision}
    processor = AutoProcessor.from_pretrained(name, **trust)
    model = AutoModelForImageTextToText.from_pretrained(name, **trust)
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    exact = processor.EXACT_KEYS
    inputs = {
        key: value.to(model.dtype) if value.is_floating_point() and key not in exact else value
        for key, value in inputs.items()
    }
    tokens = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
    pipe = pipeline("video-text-to-text", model=name, **trust)
    text = pipe(video, text=question, return_full_text=False, generate_kwargs=greedy)[0]["generated_text"]
    report[name] = {"tokens": tokens.tolist(), "text": text, "module": type(model).__module__}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with hub_server() as server, against(server, tmp_path_factory.mktemp("cache")):
        yield server


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> folder of a small checkpoint of each design."""
    folder = tmp_path_factory.mktemp("sources") / SILENT
    write_videollama2(folder)
    return {**{name: default_checkpoint(name) for name in bundled_checkpoints()}, SILENT: str(folder)}


def licence_of_test(name: str) -> str | None:
    """The licence to state: its folder does not say where the weights come from."""
    return "apache-2.0" if name == SILENT else None


@pytest.fixture(scope="module")
def reports(hub: HubServer, sources: dict[str, str]) -> dict[str, PushReport]:
    """All of them, pushed."""
    return {name: push(place, f"me/{name}", licence=licence_of_test(name)) for name, place in sources.items()}


def published(hub: HubServer, name: str) -> dict[str, bytes]:
    return {path: content for path, content in hub.files(name).items() if path != ".gitattributes"}


def load_elsewhere(hub: HubServer, cases: dict[str, str], clip: str, folder: Path) -> dict[str, Any]:
    """What repositories say in a new process without the package, which downloads them at the given revisions."""
    arguments = ("-c", WITHOUT_PACKAGE + LOAD, clip, QUESTION, json.dumps(cases))
    environment = environment_of(hub, folder / "home")
    result = ready_python.run(*arguments, env=environment, cwd=folder, timeout=600, with_transformers=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def answer(folder: str, clip: str) -> dict[str, Any]:
    """What the checkpoint says in this process, with the package."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    blocks = [{"type": "video", "path": clip}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": blocks}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    inputs = cast_row(inputs, model.dtype, processor.EXACT_KEYS)
    tokens = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :].tolist()
    pipe = pipeline("video-text-to-text", model=folder)
    text = pipe(clip, text=QUESTION, return_full_text=False, generate_kwargs=GREEDY)[0]["generated_text"]
    return {"tokens": tokens, "text": text}


def test_every_design_gives_the_same_tokens_without_the_package(
    hub: HubServer, reports: dict[str, PushReport], sources: dict[str, str], clips: list[str], tmp_path: Path
) -> None:
    """One new process for all designs. Each is loaded at the revision that its card names."""
    cases = {f"me/{name}": report.repos[0].tag for name, report in reports.items()}
    remote = load_elsewhere(hub, cases, clips[0], tmp_path)
    for name in NAMES:
        found = remote[f"me/{name}"]
        assert found.pop("module").startswith("transformers_modules."), name
        assert found == answer(sources[name], clips[0]), name
    # Code and weights came from the pinned commits.
    commits = {path.name for path in (tmp_path / "home" / "hub").glob("models--*/snapshots/*")}
    assert commits == {report.repos[0].commit for report in reports.values()}


@pytest.mark.parametrize("name", NAMES)
def test_a_repository_is_complete_and_one_commit(name: str, hub: HubServer, reports: dict[str, PushReport]) -> None:
    (repo,) = reports[name].repos
    files = published(hub, f"me/{name}")
    assert {path: len(content) for path, content in files.items()} == repo.files
    parts = repo.parts()
    assert {
        "card",
        "weights",
        "configuration",
        "processor",
        "chat template",
        "generation config",
        "code",
    } <= parts.keys()
    assert len(hub.commits(f"me/{name}")) == 1
    card = ModelCard(files["README.md"].decode())
    assert card.data.license
    assert card.data.pipeline_tag == "video-text-to-text"
    assert f"me/{name}" in card.text
    assert repo.tag in card.text
    assert hub.files(f"me/{name}", repo.tag) == hub.files(f"me/{name}")


def test_a_second_push_does_nothing(hub: HubServer, reports: dict[str, PushReport]) -> None:
    hub.forget()
    assert push("iva-tiny", "iva-tiny") == reports["iva-tiny"]
    assert hub.uploaded() == 0


def test_a_dry_run_writes_what_a_push_publishes(
    hub: HubServer, reports: dict[str, PushReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.forget()
    report = push("iva-tiny", "me/iva-tiny", dry_run=True, output=tmp_path / "out")
    assert hub.log == []
    folder = tmp_path / "out" / "iva-tiny"
    written = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert written == published(hub, "me/iva-tiny")
    assert report.repos[0].files == reports["iva-tiny"].repos[0].files
    with monkeypatch.context() as context:
        # It is refused before anything is prepared.
        context.delattr("hf_videollm.hub.push._prepare")
        with pytest.raises(FileExistsError, match="not empty"):
            push("iva-tiny", "me/iva-tiny", dry_run=True, output=tmp_path / "out")
    again = push("iva-tiny", "me/iva-tiny", dry_run=True, output=tmp_path / "out", overwrite=True)
    assert again.repos == report.repos


def test_a_card_of_the_folder_is_kept(hub: HubServer, tmp_path: Path) -> None:
    folder = shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "iva")
    text = "---\nlicense: mit\npipeline_tag: video-text-to-text\n---\n\n# Mine\n"
    (folder / "README.md").write_text(text)
    push(folder, "me/mine", licence_override=True)
    assert hub.files("me/mine")["README.md"].decode() == text
    (folder / "README.md").write_text("# No metadata\n")
    with pytest.raises(CheckpointError, match=r"README\.md of me/more cannot be published"):
        push(folder, "me/more")
    with pytest.raises(CheckpointError, match="--results are for a new card"):
        push(folder, "me/more", results=[tmp_path])
    for licence in (None, "mit"):
        (folder / "README.md").write_text("---\nlicense: [\n---\n# Damaged\n")
        with pytest.raises(CheckpointError, match=r"README\.md of me/more .* metadata cannot be read"):
            push(folder, "me/more", licence=licence)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n# Mine\n")
    with pytest.raises(CheckpointError, match="links to the text of its licence in LICENSE"):
        push(folder, "me/more", licence_override=True)
    assert "me/more" not in hub.store.repos


@pytest.mark.parametrize("stated", ["mit", "[mit]", "[cc-by-nc-4.0, mit]"])
def test_no_way_of_writing_a_licence_is_looser_than_the_sources(stated: str, hub: HubServer, tmp_path: Path) -> None:
    """Nor does --licence loosen what the card of the folder states. The control states the terms of the source."""
    folder = shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "iva")
    source = "base_model: DAMO-NLP-SG/VideoLLaMA2-7B"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (folder / "README.md").write_text(f"---\nlicense: {stated}\n{source}\n---\n# Mine\n")
    with pytest.raises(LicenceError, match=r"mit is looser than apache-2\.0, non-commercial"):
        push(folder, "me/loose", dry_run=True, output=tmp_path / "out")
    (folder / "README.md").write_text("---\nlicense: [cc-by-nc-4.0]\n---\n# Mine\n")
    with pytest.raises(LicenceError, match=r"mit is looser than cc-by-nc-4\.0, the licence of the folder.s README"):
        push(folder, "me/loose", licence="mit", dry_run=True, output=tmp_path / "out")
    push(folder, "me/loose", dry_run=True, output=tmp_path / "out")


@pytest.mark.parametrize("named", [True, False])
def test_a_card_that_was_written_before_names_the_revision_of_the_push(
    named: bool, hub: HubServer, tmp_path: Path
) -> None:
    """`hf-videollm card` does not know the revision, and without --repo-id not the repository either."""
    folder = shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "iva-copy")
    write_card(folder, folder / "README.md", CardOptions(repo_id="me/early" if named else None))
    before = (folder / "README.md").read_text()
    assert 'revision="main"' in before
    tags = []
    for number in range(2):
        (repo,) = push(folder, "me/early").repos
        tags.append(repo.tag)
        text = hub.files("me/early")["README.md"].decode()
        assert set(re.findall(r'"([^"]*)", revision="([^"]*)"', text)) == {("me/early", repo.tag)}
        # Nothing else was changed.
        assert text.replace(repo.tag, "main") == before.replace("OWNER/iva-copy", "me/early")
        (folder / "README.md").write_text(text)
        (folder / "notes.txt").write_text(str(number))
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("me/my model", "letters, digits"),
        ("a/b/c", "cannot be the name"),
        (f"me/{'x' * 97}", "at most 96"),
        ("", "name"),
    ],
)
def test_impossible_names(name: str, told: str, hub: HubServer) -> None:
    hub.forget()
    with pytest.raises(ValueError, match=told) as caught:
        push("iva-tiny", name)
    assert "\n" not in str(caught.value)
    assert not [line for line in hub.log if line.startswith(("PUT", "POST"))]


@pytest.mark.parametrize(
    "branch", ["", "bad name", "a..b", "-x", "/x", "x/", "a//b", "x.lock", "ü", "x~1", "a/.b", "refs/pr/1", "x" * 300]
)
def test_impossible_branches(branch: str, hub: HubServer) -> None:
    hub.forget()
    with pytest.raises(ValueError, match=r"--revision '.*' cannot be the name of a branch"):
        push("iva-tiny", "me/branches", revision=branch)
    assert hub.log == []


@pytest.mark.parametrize("branch", ["v1.0", "user/try-2", "refs_1", "main"])
def test_usual_branches_are_possible(branch: str) -> None:
    _check_branch(branch)


def test_options_that_do_not_fit(hub: HubServer) -> None:
    with pytest.raises(ValueError, match="names no owner"):
        push("iva-tiny", "iva-tiny", dry_run=True)
    with pytest.raises(ValueError, match="overwrite=True is for dry_run alone"):
        push("iva-tiny", "me/iva-tiny", overwrite=True)
    with pytest.raises(TypeError, match="did you mean private"):
        push("iva-tiny", "me/iva-tiny", privat=True)  # type: ignore[call-arg]


def test_a_full_disk_publishes_nothing(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_videollm.disk_full import DiskFullError

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_videollm.hub.push.write_card", fail)
    with pytest.raises(DiskFullError, match="no space left"):
        push("iva-tiny", "me/full")
    assert "me/full" not in hub.store.repos


# Quantized variants.


def check_variants(hub: HubServer, source: str, name: str, variants: list[str], clip: str, folder: Path) -> None:
    """Push a checkpoint with variants, twice, and ask all of them in a process without the package."""
    options: dict[str, Any] = {"variants": variants, "licence": licence_of_test(name)}
    report = push(source, f"me/{name}-all", **options)
    names = [f"me/{name}-all", *(f"me/{name}-all-{variant}" for variant in variants)]
    assert [repo.repo_id for repo in report.repos] == names
    assert [repo.variant for repo in report.repos] == [None, *variants]
    collection = hub.store.collections[report.collection.removeprefix(f"{hub.url}/collections/")]
    assert [item["id"] for item in collection["items"]] == names
    for variant in names[1:]:
        card = ModelCard(hub.files(variant)["README.md"].decode())
        assert card.data.base_model in (names[0], [names[0]])
        assert card.data["base_model_relation"] == "quantized"
        assert card.data.license == ModelCard(hub.files(names[0])["README.md"].decode()).data.license
        assert f"This is the licence of the original, `{names[0]}`." in card.text
        assert f"`{names[0]}`" not in card.text.replace("of the original, `", "")
    hub.forget()
    assert push(source, names[0], **options) == report
    assert hub.uploaded() == 0
    # `info` finds the variants of the original, and the original of each variant.
    found_variants = describe_checkpoint(names[0]).variants
    assert (found_variants.names, found_variants.looked_in) == (sorted(names[1:]), "Hub")
    of_one = describe_checkpoint(names[1])
    assert names[0] in [model.name for model in of_one.base_models]
    assert of_one.variants.names == []
    cases = {repo.repo_id: repo.tag for repo in report.repos[1:]}
    remote = load_elsewhere(hub, cases, clip, folder)
    for repo_id in cases:
        found = remote[repo_id]
        assert found["module"].startswith("transformers_modules.")
        cached = f"models--{repo_id.replace('/', '--')}/snapshots/*"
        local = answer(str(next((folder / "home" / "hub").glob(cached))), clip)
        assert (found["tokens"], found["text"]) == (local["tokens"], local["text"])


@pytest.mark.slow
def test_variants_are_repositories_beside_the_original(
    hub: HubServer, sources: dict[str, str], clips: list[str], tmp_path: Path
) -> None:
    check_variants(hub, sources["iva-tiny"], "iva-tiny", ["nf4", "bf16"], clips[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "iva-tiny"])
def test_variants_of_every_design(
    name: str, hub: HubServer, sources: dict[str, str], clips: list[str], tmp_path: Path
) -> None:
    check_variants(hub, sources[name], name, ["nf4", "int8", "bf16"], clips[0], tmp_path)


def test_an_unknown_variant_publishes_nothing(hub: HubServer) -> None:
    with pytest.raises(ValueError, match="nf4"):
        push("iva-tiny", "me/unknown", variants=["nf5"])
    with pytest.raises(ValueError, match="names a variant twice"):
        push("iva-tiny", "me/unknown", variants=["nf4", "consumer-nf4"])
    assert "me/unknown" not in hub.store.repos


# The command line.


def test_the_command(
    cli: Callable[..., tuple[int, str, str]], hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("push", "iva-tiny", "me/by-command", "--private", "--revision", "v1", "--message", "first")
    assert (code, err) == (0, "")
    assert "me/by-command" in out
    assert "model.safetensors" in out
    assert hub.store.repos["me/by-command"].private
    assert hub.commits("me/by-command", "v1") == ["first"]
    code, out, err = cli("push", "iva-tiny", "me/by-command", "--dry-run", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["dry_run"]
    assert (tmp_path / report["repos"][0]["folder"] / "config.json").is_file()
    assert os.listdir(tmp_path) == ["by-command.dry-run"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gone", "me/x"), "gone: no such folder"),
        (("iva-tiny", "me/bad name"), "cannot be the name of a repository"),
        (("iva-tiny", "you/x"), "may not write to you/x"),
        (("inside", "me/x", "--dry-run", "--output", "inside/dry"), "would be published with it"),
        (("iva-tiny", "me/x", "--overwrite"), "--overwrite is for --dry-run alone"),
        (("secret", "me/x"), "key.pem is a file for secrets"),
        (("empty", "me/x"), "is no checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_publishes_nothing(
    arguments: tuple[str, ...],
    told: str,
    cli: Callable[..., tuple[int, str, str]],
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "secret")
    (tmp_path / "secret" / "key.pem").write_text("")
    (tmp_path / "empty").mkdir()
    shutil.copytree(default_checkpoint("iva-tiny"), tmp_path / "inside")
    monkeypatch.chdir(tmp_path)
    hub.forget()
    code, out, err = cli("push", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert hub.uploaded() == 0
    assert not {"me/x", "you/x"} & hub.store.repos.keys()


def test_a_failing_hub_is_one_line(cli: Callable[..., tuple[int, str, str]], hub: HubServer) -> None:
    hub.faults = [Fault("/commit/", 500, times=99)]
    code, out, err = cli("push", "iva-tiny", "me/failing")
    hub.faults.clear()
    assert (code, out) == (2, "")
    assert err.startswith("error: me/failing: the Hub failed with status 500")
    assert "Nothing was published." in err
    assert err.count("\n") == 1
    assert issubclass(PushError, ValueError)
