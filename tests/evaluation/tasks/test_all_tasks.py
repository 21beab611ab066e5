"""What holds for every benchmark, on its stand-in."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import hf_videollm
from hf_videollm.evaluation.data_files import DataError, DataFiles
from hf_videollm.evaluation.exact_match import MATCH_RULES
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.judges.policies import POLICIES
from hf_videollm.evaluation.judges.texts import TEXTS
from hf_videollm.evaluation.multiple_choice import CHOICE_RULES
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.tasks import find_task, task_names
from hf_videollm.synthetic.benchmarks import FEWEST, STAND_INS, write_stand_in

NAMES = task_names()
TASK_FOLDER = Path(hf_videollm.__file__).parent / "evaluation" / "tasks"
PAPERS = ("pllava", "videollama2", "linvt", "ftfv", "iva")
# A paper's numbers begin with its name; the tables that they come from stand behind it.
PUBLISHED = re.compile(rf'^\s*"(?:{"|".join(PAPERS)})": \{{(?P<rest>.*)$')
COUNT = 20


def test_every_task_has_a_stand_in_and_every_stand_in_a_task() -> None:
    assert set(STAND_INS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_stand_in_loads(load: Callable[..., list[Item]], tmp_path: Path, name: str) -> None:
    written = write_stand_in(name, tmp_path, 1)
    assert 1 <= len(load(name, tmp_path)) <= written
    assert written == FEWEST.get(name, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_stand_in_loads(stand_in: Callable[[str], Path], load: Callable[..., list[Item]], name: str) -> None:
    items = load(name, stand_in(name))
    assert len(items) == COUNT
    assert len({item.id for item in items}) == COUNT
    for item in items:
        for medium in item.media:
            assert medium.path.exists(), medium.path
            assert medium.path.is_relative_to(stand_in(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_differ(stand_in: Callable[[str], Path], load: Callable[..., list[Item]], name: str) -> None:
    """A model that always says the same must not be right everywhere."""
    task, items = find_task(name), load(name, stand_in(name))
    if task.has_public_answers and task.metric != "none":
        assert len({item.answer for item in items}) > 1
        assert all(item.all_references for item in items)


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_style_asks_every_question(
    stand_in: Callable[[str], Path], load: Callable[..., list[Item]], render: Callable[[Item, Prompt], str], name: str
) -> None:
    task = find_task(name)
    assert "default" in task.prompts
    items = load(name, stand_in(name))
    for style, rule in task.prompts.items():
        prompts = [rule(item, question) for item in items for question in item.questions]
        assert all(prompt.text.strip() for prompt in prompts), style
        assert all(prompt.generate_kwargs["max_new_tokens"] > 0 for prompt in prompts), style
        if prompts[0].chat_template is not None:
            text = render(items[0], prompts[0])
            assert prompts[0].text.strip() in text, style
            assert text.endswith(prompts[0].answer_prefix), style


@pytest.mark.parametrize("name", NAMES)
def test_the_media_are_of_the_kinds_that_the_task_names(
    stand_in: Callable[[str], Path], load: Callable[..., list[Item]], name: str
) -> None:
    items = load(name, stand_in(name))
    assert {medium.type for item in items for medium in item.media} <= set(find_task(name).modalities)


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_find_their_groups(
    stand_in: Callable[[str], Path], load: Callable[..., list[Item]], name: str
) -> None:
    items = load(name, stand_in(name))
    for group in find_task(name).group_by:
        assert any(group in item.groups for item in items), group


@pytest.mark.parametrize("name", NAMES)
def test_every_annotation_file_that_is_listed_is_needed(
    copied: Callable[[str], Path], load: Callable[..., list[Item]], name: str
) -> None:
    """A line of `files` begins with the path of a file. Without that file, the error names it."""
    folder = copied(name)
    listed = [folder / line.split()[0] for line in find_task(name).files]
    present = [path for path in listed if path.is_file()]
    for path in present:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=re.escape(path.name)) as error:
            load(name, folder)
        assert "\n" not in str(error.value)
        path.write_bytes(content)
    assert load(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        list(find_task(name).items(DataFiles(tmp_path)))


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_has_its_rules(name: str) -> None:
    task = find_task(name)
    if task.metric == "multiple_choice":
        assert "default" in task.choice_rules
        assert set(task.choice_rules.values()) <= set(CHOICE_RULES)
    elif task.metric == "exact_match":
        assert "default" in task.match_rules
        assert set(task.match_rules.values()) <= set(MATCH_RULES)
    elif task.metric in ("judged_qa", "vcg", "msvc"):
        assert "default" in task.judge_texts
        assert set(task.judge_policies) == set(task.judge_texts)
        assert set(task.judge_policies.values()) <= set(POLICIES)
        for name_of_text in task.judge_texts.values():
            # A benchmark with several aspects has one text for each.
            assert any(text == name_of_text or text.startswith(f"{name_of_text}_") for text in TEXTS), name_of_text
    else:
        assert task.metric in ("matched_choice", "none")


def unsourced(text: str) -> list[str]:
    """Lines where a paper's numbers begin without the table that they come from."""
    return [
        line.strip()
        for line in text.splitlines()
        if (found := PUBLISHED.match(line)) and not re.search(r"# .*\b(Table|Figure) \d", found["rest"])
    ]


def test_published_numbers_carry_their_sources() -> None:
    for path in sorted(TASK_FOLDER.glob("*.py")):
        assert unsourced(path.read_text(encoding="utf-8")) == [], path.name
    # Control: a number without a table is found.
    assert unsourced('    "pllava": {\n        "PLLaVA 7B": 1.0,') == ['"pllava": {']
    assert unsourced('    "pllava": {  # Table 2\n') == []


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_are_of_known_papers_and_in_range(name: str) -> None:
    task = find_task(name)
    assert set(task.published) <= set(PAPERS)
    for models in task.published.values():
        for numbers in models.values():
            assert numbers
            assert all(0 < number <= 500 for number in numbers.values())


@pytest.mark.parametrize("name", NAMES)
def test_names_are_words_of_the_command_line(name: str) -> None:
    task = find_task(name)
    assert task.name == name
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert task.source
    assert task.files
    assert all("\n" not in line for line in (*task.files, *task.notes))
