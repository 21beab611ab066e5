"""A local language model as the judge: its own generation, independent of order and threads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from build_llms import write_llm, write_tower
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_videollm.evaluation.judges.backends.local import LocalJudge
from hf_videollm.evaluation.judges.errors import JudgeError, JudgeStopError, NoReplyError
from hf_videollm.evaluation.judges.items import JudgeItem
from hf_videollm.evaluation.judges.policies import get_policy
from hf_videollm.evaluation.judges.run import judge_items
from hf_videollm.evaluation.judges.texts import get_text

MESSAGES: Any = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Is a dog a cat?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random chat model whose own settings sample."""
    folder = write_llm(tmp_path_factory.mktemp("judge") / "olmo2", "olmo2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return str(folder)


@pytest.fixture(scope="module")
def judge(model: str) -> LocalJudge:
    return LocalJudge(model, device="cpu")


def test_a_reply_is_what_the_model_generates(model: str, judge: LocalJudge) -> None:
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    settings = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    with torch.inference_mode():
        output = network.generate(**inputs, max_new_tokens=20, **settings)
    expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert judge.complete(MESSAGES, temperature=0.0, max_tokens=20) == expected
    assert expected


def test_sampled_replies_depend_on_messages_and_attempt_alone(judge: LocalJudge) -> None:
    def ask(attempt: int, temperature: float | None = 1.5) -> str:
        torch.manual_seed(attempt + 17)  # what others have drawn before does not matter
        return judge.complete(MESSAGES, temperature=temperature, max_tokens=12, attempt=attempt)

    first = [ask(1), ask(2), ask(1, None)]
    assert len(set(first)) == 3
    assert [ask(1), ask(2), ask(1, None)] == first
    before = torch.random.get_rng_state()
    ask(1)
    torch.manual_seed(18)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_judgements_are_the_same_whatever_the_number_of_threads(judge: LocalJudge) -> None:
    text = get_text("mmbench_video")
    items = [JudgeItem(f"{i}", text, dict.fromkeys(text.fields, f"word {i}")) for i in range(3)]
    policy = replace(get_policy("videollama2"), attempts=2, max_tokens=6)
    results = [judge_items(items, policy, judge, concurrency=threads) for threads in (1, 3)]
    assert results[0] == results[1]
    # A random model judges nothing, and that is counted.
    assert all(row.failed and row.attempts == 2 and row.reply is not None for row in results[0])


def test_without_sampling_the_same_question_is_asked_once(judge: LocalJudge) -> None:
    item = JudgeItem("1", get_text("mmbench_video"), {"question": "q", "answer": "a", "pred": "p"})
    (greedy,) = judge_items([item], replace(get_policy("robust"), max_tokens=4), judge)
    assert (greedy.failed, greedy.attempts) == (True, 1)
    (sampled,) = judge_items([item], replace(get_policy("robust"), max_tokens=4, temperature=1.0), judge)
    assert (sampled.failed, sampled.attempts) == (True, 5)


def test_a_prompt_that_does_not_fit_is_one_failed_item(judge: LocalJudge) -> None:
    with pytest.raises(NoReplyError, match="a reply of 2000 do not fit into 2048"):
        judge.complete([{"role": "user", "content": "x" * 100}], max_tokens=2000)


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_a_chat_template_that_refuses_the_messages_is_told(tmp_path: Path, family: str) -> None:
    judge = LocalJudge(write_llm(tmp_path / family, family), device="cpu")
    with pytest.raises(JudgeStopError, match=r"chat template of .* refuses the judge's messages"):
        judge.complete(MESSAGES)
    assert isinstance(judge.complete(MESSAGES[1:], temperature=0.0, max_tokens=2), str)


def test_what_is_no_chat_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="has no chat template"):
        LocalJudge(write_llm(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(JudgeError, match="no causal language model"):
        LocalJudge(write_tower(tmp_path / "tower"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        LocalJudge("./nowhere")
