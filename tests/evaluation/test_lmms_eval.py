"""The models for lmms-eval: both forms of requests, parts of videos, batches, rounds and likelihoods."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lmms_eval_stub as stub
import numpy as np
import pytest
import torch
from evaluated_clips import COLOURS
from PIL import Image

from hf_videollm import load_pipeline
from hf_videollm.evaluation.asking import Ask, Asker
from hf_videollm.evaluation.lmms_eval_messages import media_of, turns_of_messages, user_turn
from hf_videollm.evaluation.lmms_eval_requests import Questions, generate_options, read_request
from hf_videollm.models.video_llm_generation_options import GENERATE_OPTIONS
from hf_videollm.synthetic.check import ClipQuestion, held_out_clips

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDS_LMMS_EVAL = pytest.mark.skipif(
    find_spec("lmms_eval") is None, reason="lmms-eval is not installed; docs/how_to/lmms_eval.md"
)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Any:
    return stub.install(monkeypatch)


@pytest.fixture
def make(ours: Any, questions: list[ClipQuestion]) -> Callable[..., Any]:
    """A model with the clips as its dataset, as lmms-eval puts it there."""

    def made(name: str = "HfVideoLlm", documents: Any = None, **options: Any) -> Any:
        model = getattr(ours, name)(
            **{"pretrained": "pllava-tiny", "device": "cpu", "dtype": "float32", "batch_size": 4, **options}
        )
        model.task_dict["clips"] = {"test": documents if documents is not None else rows(questions)}
        return model

    return made


def rows(questions: list[ClipQuestion]) -> list[dict[str, str]]:
    return [
        {"video": str(asked.path), "question": asked.question.question, "answer": asked.question.answer}
        for asked in questions
    ]


def right(answers: list[str], questions: list[ClipQuestion]) -> float:
    pairs = zip(answers, questions, strict=True)
    return sum(answer == asked.question.answer for answer, asked in pairs) / len(questions)


def test_the_model_answers_what_it_knows_in_batches(make: Any, questions: list[ClipQuestion]) -> None:
    requests = [stub.chat(number, stub.messages_of, max_new_tokens=6) for number in range(len(questions))]
    model = make(batch_size=7)
    answers = model.generate_until(requests)
    assert right(answers, questions) > 0.9
    assert make(batch_size="1").generate_until(requests) == answers
    assert [answer for *_, answer in model.cache_hook.partial] == answers
    assert model.cache_hook.partial[0][:2] == ("generate_until", ("context", {"max_new_tokens": 6}))


def test_simple_requests_are_answered_alike(make: Any, questions: list[ClipQuestion]) -> None:
    documents = rows(questions)[:4]
    asked = [
        stub.simple(number, document["question"], stub.visual_of, max_new_tokens=6)
        for number, document in enumerate(documents)
    ]
    chat = [stub.chat(number, stub.messages_of, max_new_tokens=6) for number in range(4)]
    assert make("HfVideoLlmSimple").generate_until(asked) == make().generate_until(chat)


def test_the_classes_say_which_form_they_take(ours: Any) -> None:
    assert (ours.HfVideoLlm.is_simple, ours.HfVideoLlmSimple.is_simple) == (False, True)
    manifest = ours.manifest()
    for path, name in ((manifest.chat_class_path, "HfVideoLlm"), (manifest.simple_class_path, "HfVideoLlmSimple")):
        assert path == f"{stub.OURS}.{name}"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {manifest.model_id: f"{stub.OURS}:manifest"}


def test_only_the_part_that_is_asked_about_is_seen(make: Any, questions: list[ClipQuestion]) -> None:
    """Bounds stand in the message item, where `extract_media` of lmms-eval would lose them."""
    document = {**rows(questions)[0], "start_time": 0.5, "end_time": 1.0}
    model = make(documents=[document])

    def seen(**bounds: float) -> list[float]:
        model.task_dict["clips"]["test"] = [{**rows(questions)[0], **bounds}]
        request = read_request(stub.chat(0, stub.messages_of).args)
        (question,) = Questions([request], model._first_question)
        inputs = Asker(model.pipe.processor, torch.float32).inputs(Ask(question, 0, question.prompt))
        (medium,) = inputs.media
        assert medium.get("start") == bounds.get("start_time")
        return [frame / medium["fps"] for frame in medium["frames"]]

    whole, part = seen(), seen(start_time=0.5, end_time=1.0)
    assert len(whole) == len(part) == 8
    # PLLaVA's rule counts the frame at the end in.
    assert all(0.5 <= second <= 1.0 for second in part)
    # A control: without bounds, the whole clip is seen.
    assert min(whole) < 0.5 < 1.0 < max(whole)


def test_options_of_the_processor_are_model_args(make: Any, questions: list[ClipQuestion]) -> None:
    requests = [stub.chat(0, stub.messages_of, max_new_tokens=6)]
    model = make(num_frames=4)
    assert model.options.processor_options == {"num_frames": 4}
    asker = Asker(model.pipe.processor, torch.float32, model.options.processor_options)
    (question,) = Questions([read_request(requests[0].args)], model._first_question)
    assert len(asker.inputs(Ask(question, 0, question.prompt)).media[0]["frames"]) == 4
    assert model.generate_until(requests)
    with pytest.raises(TypeError, match="no option 'num_frame': did you mean num_frames"):
        make(num_frame=4)
    with pytest.raises(ValueError, match="batch_size is a number or auto"):
        make(batch_size="many")
    with pytest.raises(ValueError, match="did you mean empty"):
        make(on_error="emty")
    assert make(batch_size="auto", max_batch_size=2).batch_size == "auto"


def test_a_model_that_hears_takes_its_options(make: Any) -> None:
    model = make(pretrained="videollama2-av-tiny", use_audio_in_video=False)
    assert model.options.processor_options == {"use_audio_in_video": False}


def test_a_damaged_video_stops_the_run_or_is_told(
    make: Any, questions: list[ClipQuestion], caplog: pytest.LogCaptureFixture
) -> None:
    documents = [{**rows(questions)[0], "video": "gone.mp4"}, *rows(questions)[:1]]
    requests = [stub.chat(number, stub.messages_of, max_new_tokens=6) for number in range(2)]
    with pytest.raises(RuntimeError, match=r"clips/test/0#0 has no answer: MediaNotFound: .*gone\.mp4"):
        make(documents=documents).generate_until(requests)
    answers = make(documents=documents, on_error="empty").generate_until(requests)
    assert answers == ["", questions[0].question.answer]
    assert "gone.mp4" in caplog.text


def test_rounds_go_on_until_the_task_ends_them(make: Any, questions: list[ClipQuestion]) -> None:
    """Document 0 is asked once, document 1 three times; each is told what it answered before."""
    told: list[tuple[int, list[str], Any]] = []

    def text(document: Mapping[str, str]) -> str:
        return document["question"]

    def following(document: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[bool, list[str], int]:
        told.append((said["round_idx"], list(said["previous_output"]), said["previous_round_info"]))
        return said["round_idx"] > 2 * document["number"], said["previous_output"], said["round_idx"]

    def messages(document: Mapping[str, Any], **said: Any) -> Any:
        return (stub.messages_of(document), *following(document, said)) if said else stub.messages_of(document)

    def doc_to_text(document: Mapping[str, Any], **said: Any) -> Any:
        return ([document["video"]], text(document), *following(document, said))

    documents = [{**row, "number": number} for number, row in enumerate(rows(questions)[:2])]
    chat = [stub.chat(number, messages, max_new_tokens=6) for number in range(2)]
    outputs = make(documents=documents).generate_until_multi_round(chat)
    answers = [asked.question.answer for asked in questions[:2]]
    assert outputs == [[answers[0]], [answers[1]] * 3]
    assert told == [(1, answers[:1], None), (1, answers[1:], None), (2, answers[1:] * 2, 1), (3, answers[1:] * 3, 2)]
    told.clear()
    simple = []
    for number, document in enumerate(documents):
        args = (text(document), {"max_new_tokens": 6}, stub.visual_of, doc_to_text, number, "clips", "test")
        simple.append(type(chat[0])(args=args))
    assert make("HfVideoLlmSimple", documents=documents).generate_until_multi_round(simple) == outputs


def colour_requests(documents: list[dict[str, str]]) -> list[Any]:
    return [
        stub.likelihood(number, document["question"], f" {colour}", stub.visual_of)
        for number, document in enumerate(documents)
        for colour in COLOURS
    ]


def test_losses_are_those_of_a_plain_forward(make: Any, questions: list[ClipQuestion]) -> None:
    documents = [row for row in rows(questions) if row["answer"] in COLOURS][:2]
    model = make("HfVideoLlmSimple", documents=documents)
    results = [result.text for result in model.loglikelihood(colour_requests(documents))]
    pipe = load_pipeline("pllava-tiny", dtype="float32", device="cpu")
    for number, document in enumerate(documents):
        expected = [plain_loss(pipe, document, colour) for colour in COLOURS]
        found = results[number * len(COLOURS) : (number + 1) * len(COLOURS)]
        assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        # lmms-eval takes the smallest one.
        best = int(np.argmin([loss for loss, _ in found]))
        assert COLOURS[best] == document["answer"]
        assert found[best][1]


def plain_loss(pipe: Any, document: Mapping[str, str], answer: str) -> tuple[float, bool]:
    """Mean loss of an answer, and whether it is the likeliest, from one forward of the whole chat."""
    content = [{"type": "video", "path": document["video"]}, {"type": "text", "text": document["question"]}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]

    def encoded(chat: list[dict[str, Any]], **options: Any) -> Any:
        return pipe.processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt", **options)

    length = encoded(turns, add_generation_prompt=True)["input_ids"].shape[1]
    whole = [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    inputs = encoded(whole, continue_final_message=True)
    with torch.inference_mode():
        logits = pipe.model(**inputs).logits[0, length - 1 : -1]
    tokens = inputs["input_ids"][0, length:]
    return float(torch.nn.functional.cross_entropy(logits, tokens)), bool((logits.argmax(-1) == tokens).all())


def test_options_of_a_question_share_one_run_over_the_video(
    make: Any, questions: list[ClipQuestion], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [row for row in rows(questions) if row["answer"] in COLOURS][:2]
    model = make("HfVideoLlmSimple", documents=documents)
    calls: list[int] = []
    encode = type(model.pipe.model.base_model).encode_media

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        return encode(self, *args, **options)

    monkeypatch.setattr(type(model.pipe.model.base_model), "encode_media", counted)
    # One option of each question, then all of them.
    model.loglikelihood(colour_requests(documents)[:: len(COLOURS)])
    alone, calls = len(calls), []
    model.loglikelihood(colour_requests(documents))
    assert len(calls) == alone > 0


def test_a_continuation_may_be_a_function_of_the_document(make: Any, questions: list[ClipQuestion]) -> None:
    documents = rows(questions)[:1]
    model = make("HfVideoLlmSimple", documents=documents)
    question = documents[0]["question"]
    by_function = stub.likelihood(0, question, lambda document: document["answer"], stub.visual_of)
    by_text = stub.likelihood(0, question, f" {documents[0]['answer']}", stub.visual_of)
    first, second = model.loglikelihood([by_function, by_text])
    assert first == second
    assert first.text[1]


def test_questions_without_media_are_answered(make: Any) -> None:
    def messages(document: Mapping[str, str]) -> Any:
        return [{"role": "user", "content": [{"type": "text", "text": document["question"]}]}]

    model = make(documents=[{"question": "What colour?"}], num_frames=4)
    assert len(model.generate_until([stub.chat(0, messages, max_new_tokens=2)])) == 1


def test_clean_lets_go_of_the_model(make: Any) -> None:
    model = make()
    assert model.device == torch.device("cpu")
    model.clean()
    assert model.is_clean
    assert not hasattr(model, "pipe")


@pytest.mark.parametrize(
    ("given", "options", "stop", "ignored"),
    [
        ({}, {}, (), set()),
        ({"max_gen_toks": 8, "temperature": 0, "top_p": 0.9}, {"max_new_tokens": 8}, (), set()),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}, (), set()),
        ({"do_sample": True, "temperature": 0}, {}, (), set()),
        ({"until": ["\n\n", "."], "num_beams": 2}, {"num_beams": 2}, ("\n\n", "."), set()),
        ({"until": "\n", "image_aspect_ratio": "pad"}, {}, ("\n",), {"image_aspect_ratio"}),
        ({"temperature": None, "top_k": None}, {}, (), set()),
    ],
)
def test_how_tasks_want_answers_generated(given: Any, options: Any, stop: Any, ignored: Any) -> None:
    """An answer is greedy and at most 1,024 tokens long where a task says no more."""
    usual = {"max_new_tokens": 1024, "do_sample": False}
    assert generate_options(given, GENERATE_OPTIONS) == ({**usual, **options}, stop, ignored)


def test_what_is_no_option_of_generate_is_told_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = make()
    model.generate_until([stub.chat(n, stub.messages_of, max_new_tokens=1, image_aspect_ratio="pad") for n in (0, 1)])
    assert caplog.text.count("image_aspect_ratio") == 1


def test_answers_end_where_the_task_says(make: Any, questions: list[ClipQuestion]) -> None:
    (answer,) = make().generate_until([stub.chat(0, stub.messages_of, max_new_tokens=6)])
    (cut,) = make().generate_until([stub.chat(0, stub.messages_of, max_new_tokens=6, until=[answer[2:]])])
    assert cut == answer[:2].strip()


def test_media_in_all_forms_of_lmms_eval() -> None:
    picture, sound = Image.new("RGB", (4, 4)), np.zeros(8)
    given = ["a.mp4", "b.PNG", "c.wav", picture, {"array": sound, "sampling_rate": 8}, [picture, picture]]
    given += [{"path": "d.mp4", "video_start": 1, "video_end": 2.5}, {"type": "image", "url": "e.bin"}]
    *blocks, text = user_turn(given, "What?", "Be brief.")[1]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert blocks == [
        {"type": "video", "path": "a.mp4"},
        {"type": "image", "path": "b.PNG"},
        {"type": "audio", "path": "c.wav"},
        {"type": "image", "image": picture},
        {"type": "audio", "audio": sound, "sampling_rate": 8},
        {"type": "video", "video": [picture, picture]},
        {"type": "video", "path": "d.mp4", "start": 1.0, "end": 2.5},
        {"type": "image", "path": "e.bin"},
    ]
    names = [str(medium.path) for medium in media_of([{"role": "user", "content": blocks}], "clips/test/3")]
    assert names[:3] == ["a.mp4", "b.PNG", "c.wav"]
    # Media without a path are told apart by the question that shows them.
    assert names[3:6] == ["clips/test/3:3", "clips/test/3:4", "clips/test/3:5"]


def test_a_system_prompt_takes_the_place_of_the_tasks_own() -> None:
    messages = [{"role": "system", "content": "Old."}, {"role": "user", "content": "What?"}]
    assert [turn["role"] for turn in turns_of_messages(messages)] == ["system", "user"]
    turns = turns_of_messages(messages, "New.")
    assert [turn["content"][0]["text"] for turn in turns] == ["New.", "What?"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "image_url", "image_url": "x"}, "a block of type 'image_url'"),
        ({"type": "video"}, "without a medium"),
        ({"type": "video", "url": {"path": "x.mp4", "nframes": 3}}, "'nframes', which would be ignored"),
    ],
)
def test_what_lmms_eval_does_not_have_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        turns_of_messages([{"role": "user", "content": [block]}])


def test_answers_without_their_question_are_refused() -> None:
    with pytest.raises(ValueError, match="a request of 2 parts"):
        read_request(("", "red"))


TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: {kind}
doc_to_visual: !function lmms_tasks.videos
doc_to_text: question
metadata: {{version: 1}}
{rest}
"""
GENERATED = """doc_to_target: answer
generation_kwargs: {max_new_tokens: 6}
process_results: !function lmms_tasks.score
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]"""
RANKED = """doc_to_target: !function lmms_tasks.number
doc_to_choice: !function lmms_tasks.colours
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"""
FUNCTIONS = f"""
COLOURS = {list(COLOURS)!r}
def videos(document): return [document["video"]]
def score(document, results): return {{"right": float(results[0] == document["answer"])}}
def colours(document): return COLOURS
def number(document): return COLOURS.index(document["answer"])
"""


@pytest.mark.slow
@NEEDS_LMMS_EVAL
@pytest.mark.parametrize(
    ("name", "kind", "rest", "flags", "metric"),
    [
        ("clips", "generate_until", GENERATED, (), "right,none"),
        ("clips", "generate_until", GENERATED, ("--force_simple",), "right,none"),
        ("colours", "multiple_choice", RANKED, ("--force_simple",), "acc,none"),
    ],
)
def test_lmms_eval_itself_runs_a_task(
    tmp_path: Path, name: str, kind: str, rest: str, flags: tuple[str, ...], metric: str
) -> None:
    """Its command line finds the model by the entry point, and the small checkpoint is right nearly always."""
    # PyAV before 17.1, which lmms-eval pins, writes no sound.
    documents = rows(held_out_clips(tmp_path, 4, with_audio=False))
    if name == "colours":
        documents = [document for document in documents if document["answer"] in COLOURS]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind, rest=rest))
    (tasks / "lmms_tasks.py").write_text(FUNCTIONS)
    command = [sys.executable, "-m", "lmms_eval", "--model", "hf_videollm", "--tasks", name, *flags]
    command += ["--model_args", "pretrained=pllava-tiny,dtype=float32,num_frames=8", "--device", "cpu"]
    command += ["--batch_size", "4", "--include_path", str(tasks), "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=550, check=False
    )
    (result,) = [*(tmp_path / "out").rglob("*results.json")] or pytest.fail(done.stdout[-2000:] + done.stderr[-2000:])
    scores = json.loads(result.read_text())["results"][name]
    assert scores[metric] > 0.9
