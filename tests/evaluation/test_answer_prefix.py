"""A prompt may hold the beginning of the answer: every model gets it behind its own template, and continues it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluated_clips import make_task

from hf_videollm.evaluation.asking import Ask, Asker
from hf_videollm.evaluation.generation import Generator
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.likelihood import Ranker
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.run_options import RunOptions, answer_settings
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.synthetic.check import ClipQuestion

every_checkpoint = pytest.mark.parametrize("name", bundled_checkpoints())
GREEDY = {"do_sample": False, "max_new_tokens": 6}


def asked(clip: ClipQuestion, prefix: str = "", **more: Any) -> Ask:
    text = clip.question.question
    return Ask(
        Item("1", (Medium(clip.path),), (text,)), 0, Prompt(text, answer_prefix=prefix, generate_kwargs=GREEDY, **more)
    )


@every_checkpoint
def test_the_prompt_ends_with_the_beginning_of_the_answer(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    processor = bundled_pipe(name).processor
    asker = Asker(processor, torch.float32).for_thread()
    plain, begun = asker.inputs(asked(questions[0])), asker.inputs(asked(questions[0], "Best Option: ("))
    assert begun.rendered.endswith("Best Option: (")
    assert begun.rendered.removesuffix("Best Option: (").rstrip() == plain.rendered.rstrip()
    decode, tokens = processor.tokenizer.decode, processor.tokenizer("Option: (", add_special_tokens=False).input_ids
    assert decode(begun.row["input_ids"][0]).endswith(decode(tokens))
    assert begun.row["input_ids"].shape[1] > plain.row["input_ids"].shape[1]


@every_checkpoint
def test_the_model_continues_it(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str) -> None:
    """The likeliest answer is also the likeliest continuation of its own beginning; another beginning changes it."""
    pipe = bundled_pipe(name)
    asker, generator = Asker(pipe.processor, torch.float32).for_thread(), Generator(pipe.model, pipe.processor)
    seen, others = set[str](), list[bool]()
    for clip in questions[:6]:
        (free,) = generator.answers([asker.inputs(asked(clip))])
        answer = free.text.strip()
        (begun,) = generator.answers([asker.inputs(asked(clip, answer))])
        # Behind the whole answer, the model ends.
        assert begun.text.strip() == "", (answer, begun.text)
        assert begun.answer == ""
        (kept,) = generator.answers([asker.inputs(asked(clip, answer, return_prefix=f"{answer}:"))])
        assert kept.answer.strip() == f"{answer}:"
        (other,) = generator.answers([asker.inputs(asked(clip, "What moves?"))])
        seen.add(answer)
        others.append(other.text != free.text)
    assert len(seen) > 1
    # The control: behind a beginning that is no answer, the model goes on in another way.
    assert any(others)


@every_checkpoint
def test_it_is_what_the_same_tokens_give_by_hand(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    pipe = bundled_pipe(name)
    asker = Asker(pipe.processor, torch.float32).for_thread()
    plain, begun = asker.inputs(asked(questions[0])), asker.inputs(asked(questions[0], "Option: ("))
    size = plain.row["input_ids"].shape[1]
    same = torch.equal(begun.row["input_ids"][:, :size], plain.row["input_ids"])
    by_hand = dict(plain.row)
    added = begun.row["input_ids"][:, size:] if same else None
    if added is None:
        pytest.skip("the blank before an answer belongs to other tokens in this template")
    by_hand["input_ids"] = torch.cat([by_hand["input_ids"], added], dim=1)
    for key, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if key in by_hand:
            more = torch.full_like(added, value).to(by_hand[key].dtype)
            by_hand[key] = torch.cat([by_hand[key], more], dim=1)
    with torch.no_grad():
        expected, found = pipe.model(**by_hand).logits[:, -1], pipe.model(**begun.row).logits[:, -1]
        without = pipe.model(**plain.row).logits[:, -1]
    assert torch.equal(found, expected)
    # The control: without the beginning, the model goes on in another way.
    assert not torch.allclose(found, without, atol=1e-3)


def test_options_are_ranked_behind_it(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]) -> None:
    pipe = bundled_pipe("pllava-tiny")
    item = Item("1", (Medium(questions[0].path),), ("What?",), ("red", "blue"), "red", 0)
    asker = Asker(pipe.processor, torch.float32).for_thread()
    scores = [
        Ranker(pipe.model, pipe.processor, "sum", {}).scores(
            asker.inputs(Ask(item, 0, Prompt("What?", answer_prefix=text)))
        )
        for text in ("", "The color is")
    ]
    assert scores[0] != scores[1]


def test_a_template_that_drops_it_is_refused(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]) -> None:
    processor = copy.deepcopy(bundled_pipe("pllava-tiny").processor)
    whole = "{% for message in messages %}{{ message['role'] }}: {% for block in message['content'] %}"
    whole += "{% if block['type'] == 'text' %}{{ TEXT }}{% else %}<video>{% endif %}{% endfor %} {% endfor %}"
    inputs = Asker(processor, torch.float32).inputs
    for text in ("block['text'] | lower", "block['text'] if message['role'] == 'user'"):
        processor.chat_template = whole.replace("TEXT", text)
        with pytest.raises(
            ValueError, match=r"does not keep the beginning of an answer, 'Option: \(': choose"
        ) as error:
            inputs(asked(questions[0], "Option: ("))
        assert "\n" not in str(error.value)
    # The control: a template that changes nothing is fine.
    processor.chat_template = whole.replace("TEXT", "block['text']")
    assert inputs(asked(questions[0], "Option: (")).rendered.endswith("assistant: Option: (")


def test_a_run_that_is_continued_has_the_same_beginning() -> None:
    item = Item("1", (Medium(Path("a.mp4")),), ("What?",))
    prompts = {
        "default": lambda item, text: Prompt(text),
        "one": lambda item, text: Prompt(text, answer_prefix="One"),
        "two": lambda item, text: Prompt(text, answer_prefix="Two"),
    }
    task = make_task(prompts=prompts)
    found = [answer_settings(task, RunOptions(prompt_style=style), {}, item)["prompt"] for style in prompts]
    assert len(set(found)) == 3


def test_the_official_prompt_of_mlvu_begins_the_answer(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    item = Item("1", (Medium(questions[0].path),), ("What?",), ("red", "blue"), "red", 0)
    prompt = find_task("mlvu").prompt_rule("official")(item, "What?")
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32).for_thread()
    rendered = asker.inputs(Ask(item, 0, prompt)).rendered
    assert rendered.startswith("Carefully watch this video and pay attention to every detail.")
    assert rendered.endswith("Best Option: (")
    assert prompt.return_prefix == "("
