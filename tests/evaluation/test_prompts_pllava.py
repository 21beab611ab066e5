"""PLLaVA's prompts: the official ones letter by letter, as text and through the processor's chat templates."""

import json
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_videollm.evaluation import prompts, prompts_pllava
from hf_videollm.evaluation.prompts import join_pieces, label_spans, render, to_chat_template, without_query_prompts
from hf_videollm.evaluation.prompts_pllava import (
    DESCRIBE_QUERY,
    RECAPTION_QUERY,
    SETTINGS,
    STYLES,
    chat_template,
    mvbench_query,
    prompt_style,
    training_pieces,
)
from hf_videollm.models.processing_pllava import PllavaProcessor
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava

MVBENCH_QUERY = mvbench_query("What did the person do?", ["Sat down", "Stood up", "Left"])
DEMO_QUERY = "What is the man doing?"
VIDEO = {"type": "video"}
# What the original was asked for each kind of rendered prompt: question, and the benchmark whose texts go around it.
QUERIES = {
    "describe": (DESCRIBE_QUERY, None),
    "mvbench": (MVBENCH_QUERY, "mvbench"),
    "videoqa": ("what is the man doing?", "videoqabench"),
    "vcg": ("What happens in the video?", "vcgbench"),
    "recaption": (RECAPTION_QUERY, "recaption"),
}
TRAINING_TURNS = {
    "qa": ("Watch the video.", [("What is shown?", "A dog."), ("Where?", "Outside.")]),
    "caption": ("Describe the clip.", [("", "A dog runs.")]),
}


@pytest.fixture(scope="module")
def golden(goldens):
    return json.loads((goldens / "pllava" / "prompts" / "prompts.json").read_text(encoding="utf-8"))


def text(value):
    return {"type": "text", "text": value}


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(answer):
    return {"role": "assistant", "content": [text(answer)]}


# --- Tokenizers that see white space, unlike the small model's ---


def byte_tokenizer():
    """One token per byte: a mask over tokens is a mask over text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama_like_tokenizer():
    """Words with the blank before them, and a blank put before the text, as LLaMA's SentencePiece does."""
    words = ["▁USER", "▁ASSISTANT", "USER", "ASSISTANT", ":", "▁", "\n", "▁red", "▁Where", "▁What", "?", "▁up", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation(),
        ]
    )
    return tokenizer


def processor_with(tokenizer):
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<video>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    small = build_tiny_pllava(num_frames=2, image_size=32, patch_size=16, pooling_shape=(2, 2, 2))[1]
    return PllavaProcessor(small.image_processor, wrapped, small.video_processor, pooling_shape=(2, 2, 2))


@pytest.fixture(scope="module")
def processor():
    return processor_with(byte_tokenizer())


def as_original(prompt):
    """The original writes `<image>` for a video."""
    return prompt.replace("<video>", "<image>")


# --- The styles against the original ---


def test_styles_hold_the_official_texts(golden):
    for name, template in golden["templates"].items():
        if name.startswith("("):
            continue  # not registered, used by no script
        style = STYLES[name]
        assert style.system == template["system"], name
        assert [style.user_role, style.assistant_role] == template["roles"], name
        assert [style.user_end, style.assistant_end] == template["sep"], name
        assert style.separator == style.user_end, name
        assert style.media_alone == (template["mm_style"] == "mm_alone"), name
        # Media that share the turn of the question are joined to it with a blank.
        blank = "" if style.media_alone else " "
        assert golden["image_token"] + style.media_suffix == template["mm_token"] + blank, name
        for ours, official in (
            (style.pre_query, "pre_query_prompt"),
            (style.post_query, "post_query_prompt"),
            (style.answer_prefix, "answer_prompt"),
        ):
            assert ours == (template[official] or ""), (name, official)


def official_style(name, kind):
    """The style of a rendered golden prompt, from the public functions."""
    benchmark = QUERIES[kind][1]
    if benchmark is None:
        return without_query_prompts(STYLES[name])
    size = "34b" if name.endswith("llavanext") else "7b"
    own = prompt_style(benchmark, size)
    if name == "plain":
        return replace(STYLES[name], post_query=own.post_query, answer_prefix=own.answer_prefix)
    return own


def test_every_rendered_prompt_is_reproduced(golden):
    done = set()
    for key, expected in golden["rendered"].items():
        name, kind = key.split("|", 1)
        if kind not in QUERIES:
            continue
        prompt = render(official_style(name, kind), QUERIES[kind][0], placeholder="<image>")
        assert prompt == expected, key
        done.add(key)

    demo = prompt_style("demo")
    assert render(demo, DEMO_QUERY, placeholder="<image>") == golden["rendered"]["plain|demo"]
    second = render(demo, "Where?", history=[(DEMO_QUERY, "He is dancing.")], placeholder="<image>")
    assert second == golden["rendered"]["plain|demo_turn2"]
    assert demo.system == golden["demo_system"]
    assert golden["recaption_query"] == RECAPTION_QUERY

    # The one deliberate difference: the original cuts the last letter of every placeholder but the last.
    broken = golden["rendered"]["plain|num_mm_token=2"]
    mended = render(STYLES["plain"], "two videos", num_media=2, placeholder="<image>")
    assert mended == broken.replace("<image<image>", "<image><image>") != broken

    for key, expected in golden["rendered"].items():
        if key.startswith("train|"):
            assert join_pieces(golden_training_pieces(key)) == expected, key
            done.add(key)
    assert done | {"plain|demo", "plain|demo_turn2", "plain|num_mm_token=2"} == set(golden["rendered"])


def golden_training_pieces(key, placeholder="<image>"):
    _, family, alone, kind = key.split("|")
    instruction, turns = TRAINING_TURNS[kind]
    return training_pieces(
        turns,
        size="34b" if family == "yi" else "13b",
        instruction=instruction,
        media_alone=alone == "mm_alone=True",
        placeholder=placeholder,
    )


def test_training_labels_are_the_answers_with_their_end_mark(golden):
    for key, prompt in golden["rendered"].items():
        if key.startswith("train|"):
            end = "<|im_end|>\n" if "|yi|" in key else "</s>"
            spans = label_spans(golden_training_pieces(key))
            assert [prompt[start:stop] for start, stop in spans] == [
                answer + end for _, answer in TRAINING_TURNS[key.split("|")[-1]][1]
            ], key


def test_training_pieces_end_where_roles_end():
    pieces = training_pieces([("What is shown?", "A dog.")], instruction="Watch the video.")
    assert [tuple(piece) for piece in pieces] == [
        ("Watch the video. ", False),
        ("USER:", False),
        ("<video>\nWhat is shown?</s>", False),
        ("ASSISTANT:", False),
        ("A dog.</s>", True),
    ]


def test_generation_settings(golden):
    settings = golden["generation"]
    assert settings["all"]["media_type"] == "video"
    passed_to_generate = {"num_beams", "min_length", "repetition_penalty", "length_penalty"}
    inactive = {"top_p", "temperature", "media_type"}
    assert set(settings["all"]) == passed_to_generate | inactive
    assert set(settings) == {"all", "pllava_answer_default", *SETTINGS}
    for name, ours in SETTINGS.items():
        official = dict(settings[name])
        kwargs = ours.generation_kwargs()
        assert {key: kwargs[key] for key in passed_to_generate} == {
            key: settings["all"][key] for key in passed_to_generate
        }
        assert kwargs["do_sample"] == official.pop("do_sample")
        assert kwargs["max_new_tokens"] == official.pop("max_new_tokens")
        style = prompt_style(name)
        assert style.post_query == official.pop("post_query_prompt", style.post_query)
        assert style.answer_prefix == official.pop("answer_prompt", style.answer_prefix)
        assert ours.return_prefix == official.pop("return_prompt", "")
        assert list(ours.stop_keywords) == official.pop("stop_keywords", [])
        assert ours.resize_shortest == official.pop("resize_shortest", None)
        pooling = official.pop("pooling_shape", [16, 12, 12])
        # In words where the script leaves the original's default.
        assert ours.pooling_shape == ((16, 12, 12) if pooling == "default (16,12,12)" else tuple(pooling))
        assert ours.lora_alpha == official.pop("lora_alpha", 4)
        assert ours.num_frames == official.pop("num_frames", 16)
        assert not official, f"{name}: not compared: {official}"


@pytest.mark.parametrize(
    ("benchmark", "size", "name"),
    [
        ("vcgbench", "7b", "eval_vcgbench"),
        ("vcgbench", "34b", "eval_vcg_llavanext"),
        ("videoqabench", "13b", "eval_videoqabench"),
        ("videoqabench", "34b", "eval_videoqa_llavanext"),
        ("recaption", "13b", "eval_recaption"),
        ("recaption", "34b", "eval_recaption_llavanext"),
    ],
)
def test_style_of_a_benchmark(benchmark, size, name):
    assert prompt_style(benchmark, size) == STYLES[name]


def test_mvbench_keeps_its_answer_prefix_at_every_size():
    for size, name in (("7b", "eval_mvbench"), ("13b", "eval_mvbench"), ("34b", "eval_mvbench_llavanext")):
        style = prompt_style("mvbench", size)
        assert without_query_prompts(style) == STYLES[name]
        assert style.answer_prefix == "Best option:("


def test_released_script_asks_videoqa_of_13b_in_another_style():
    assert prompt_style("videoqabench", "13b", as_released=True) == STYLES["eval_mvbench"]
    assert prompt_style("videoqabench", "7b", as_released=True) == STYLES["eval_videoqabench"]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: prompt_style("mmbench"), "mmbench"),
        (lambda: prompt_style("mvbench", "70b"), "70b"),
        (lambda: chat_template("eval_vcg_llava_next"), "eval_vcg_llava_next"),
        (lambda: chat_template("plain", "mmbench"), "mmbench"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(call, named):
    with pytest.raises(ValueError, match=named) as raised:
        call()
    assert "plain" in str(raised.value) or "mvbench" in str(raised.value)


def test_doctests():
    import doctest

    for module in (prompts, prompts_pllava):
        assert doctest.testmod(module).failed == 0


# --- Styles as chat templates ---


def test_chat_templates_render_the_official_prompts(golden, processor):
    for key, expected in golden["rendered"].items():
        name, kind = key.split("|", 1)
        if kind not in QUERIES:
            continue
        question, benchmark = QUERIES[kind]
        template = chat_template(name, benchmark)
        messages = [user(VIDEO, text(question))]
        prompt = processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)
        assert as_original(prompt) == expected, key

    messages = [user(VIDEO, text(DEMO_QUERY)), assistant("He is dancing."), user(text("Where?"))]
    prompt = processor.apply_chat_template(messages, chat_template=chat_template("demo"), add_generation_prompt=True)
    assert as_original(prompt) == golden["rendered"]["plain|demo_turn2"]
    # The demo's own way: `plain` with a system message, the video in a message of its own.
    system = {"role": "system", "content": golden["demo_system"]}
    messages = [system, user(VIDEO), {"role": "user", "content": DEMO_QUERY}]
    prompt = processor.apply_chat_template(messages, chat_template=chat_template("plain"), add_generation_prompt=True)
    assert as_original(prompt) == golden["rendered"]["plain|demo"]


def test_chat_templates_render_the_official_training_text(golden, processor):
    for key, expected in golden["rendered"].items():
        if not key.startswith("train|"):
            continue
        _, family, alone, kind = key.split("|")
        instruction, turns = TRAINING_TURNS[kind]
        messages = [{"role": "system", "content": [text(instruction)]}]
        for index, (question, answer) in enumerate(turns):
            content = [VIDEO] * (index == 0) + [text(question)] * bool(question)
            messages += [user(*content), assistant(answer)]
        name = f"train_{family}" + ("_alone" if alone == "mm_alone=True" else "")
        prompt = processor.apply_chat_template(messages, chat_template=chat_template(name))
        assert as_original(prompt) == expected, key


@pytest.mark.parametrize("name", list(STYLES))
def test_template_equals_render(processor, name):
    """Also where no golden exists: several videos, several turns, a style's query prompts."""
    style = STYLES[name]
    messages = [user(VIDEO, VIDEO, text("Which?")), assistant("Both."), user(text('Say "{{ why }}"\n'))]
    prompt = processor.apply_chat_template(messages, chat_template=to_chat_template(style), add_generation_prompt=True)
    assert prompt == render(style, 'Say "{{ why }}"\n', history=[("Which?", "Both.")], num_media=2)


def test_system_message_replaces_the_style_own(processor):
    messages = [{"role": "system", "content": "Be brief."}, user(VIDEO, text("Why?"))]
    template = chat_template("eval_vcgbench")
    prompt = processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)
    assert prompt == "Be brief. USER: <video>\n USER: Why? ASSISTANT:"
    messages[0]["content"] = ""
    prompt = processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)
    assert prompt == "USER: <video>\n USER: Why? ASSISTANT:"


@pytest.mark.parametrize("template", [None, chat_template("plain")])
@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "tool", "content": "42"}, "tool"),
        (user({"type": "audio"}, text("What sounds?")), "audio"),
        ({"role": "assistant", "content": [VIDEO]}, "video"),
        ({"role": "system", "content": [VIDEO]}, "video"),
    ],
)
def test_what_a_template_cannot_say_is_refused(processor, template, message, named):
    with pytest.raises(Exception, match=named):
        processor.apply_chat_template([message], chat_template=template)


# --- The processor's own template ---

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(VIDEO, text("Why?"))], "USER: <video>\n Why? ASSISTANT:"),
        ([{"role": "user", "content": "Why?"}], "USER: Why? ASSISTANT:"),
        ([SYSTEM, user(VIDEO, text("Why?"))], "Be brief. USER: <video>\n Why? ASSISTANT:"),
        ([{"role": "system", "content": ""}, user(text("Why?"))], "USER: Why? ASSISTANT:"),
        ([{"role": "system", "content": [text("Be"), text(" brief.")]}], "Be brief. ASSISTANT:"),
        ([user(VIDEO, VIDEO, text("Which?"))], "USER: <video><video>\n Which? ASSISTANT:"),
        ([user({"type": "image"}, VIDEO, text("Which?"))], "USER: <image><video>\n Which? ASSISTANT:"),
        ([user(text("Is "), VIDEO, text("longer than "), VIDEO, text("?"))],
         "USER: Is <video>\n longer than <video>\n ? ASSISTANT:"),
        ([user(text("Look: "), VIDEO)], "USER: Look: <video>\n  ASSISTANT:"),
        ([user(VIDEO, text("Why?")), assistant("So."), user(text("Where?"))],
         "USER: <video>\n Why? ASSISTANT: So.</s>USER: Where? ASSISTANT:"),
        ([user(text("a")), {"role": "assistant", "content": [text("b"), text("c")]}, user(text("d"))],
         "USER: a ASSISTANT: bc</s>USER: d ASSISTANT:"),
    ],
)  # fmt: skip
def test_default_template(processor, messages, expected):
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_default_template_is_the_official_layout_of_videoqa(golden, processor):
    prompt = processor.apply_chat_template([user(VIDEO, text(DESCRIBE_QUERY))], add_generation_prompt=True)
    assert as_original(prompt) == golden["rendered"]["eval_videoqabench|describe"]


@pytest.mark.parametrize("template", [None, chat_template("plain"), chat_template("train_yi")])
def test_answer_is_continued(processor, template):
    """Nothing follows the beginning of an answer, be it a string or blocks."""
    question = user(VIDEO, text("Why?"))
    for content in ("Best option:(", [text("Best "), text("option:(")]):
        begun = {"role": "assistant", "content": content}
        prompt = processor.apply_chat_template([question, begun], chat_template=template, continue_final_message=True)
        opening = processor.apply_chat_template([question], chat_template=template, add_generation_prompt=True)
        blank = " " if template is None else ""
        assert prompt == opening + blank + "Best option:("


# --- What is learned ---


def clip(num_frames=2):
    return {"type": "video", "video": torch.zeros((num_frames, 3, 32, 32), dtype=torch.uint8)}


def image():
    return {"type": "image", "image": torch.zeros((3, 32, 32), dtype=torch.uint8)}


CONVERSATIONS = [
    [user(clip(), text("What?")), assistant("red")],
    [user(clip(), clip(), text("Where?")), assistant("up."), user(text("What?")), assistant("red")],
    [user(image(), text("What?")), assistant("red"), user(clip(), text("What?")), assistant("up.")],
    [{"role": "system", "content": "Where?"}, {"role": "user", "content": "What?"}, assistant("red")],
]
ANSWERS = [["red"], ["up.", "red"], ["red", "up."], ["red"]]


def learned_tokens(processor, messages, template):
    """Runs of learned tokens, each decoded, and the whole decoded prompt."""
    out = processor.apply_chat_template(
        messages,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True},
    )
    runs = []
    for ids, mask in zip(out["input_ids"].tolist(), torch.as_tensor(out["assistant_masks"]).tolist(), strict=True):
        row, previous = [], 0
        for token, learned in zip(ids, mask, strict=True):
            if learned:
                row += [] if previous else [[]]
                row[-1].append(token)
            previous = learned
        runs.append(row)
    return runs, out


@pytest.mark.parametrize("template_of", [None, "plain", "train_vicuna", "train_yi", "eval_mvbench"])
@pytest.mark.parametrize("batched", [False, True])
def test_exactly_the_answers_are_learned(processor, template_of, batched):
    """To the byte, behind expanded placeholders and left padding."""
    template = chat_template(template_of) if template_of else None
    style = STYLES[template_of] if template_of else STYLES["plain"]
    blank = "" if template_of else " "
    batches = [CONVERSATIONS] if batched else [[conversation] for conversation in CONVERSATIONS]
    seen = []
    for batch in batches:
        runs, out = learned_tokens(processor, batch, template)
        seen += [[processor.tokenizer.decode(run) for run in row] for row in runs]
        assert (out["input_ids"] == processor.video_token_id).sum() % 8 == 0
    assert seen == [[blank + answer + style.assistant_end for answer in row] for row in ANSWERS]


def test_answers_have_the_tokens_of_the_official_training():
    """The official training tokenises an answer alone, which puts a blank before it; so does the default template."""
    processor = processor_with(llama_like_tokenizer())
    runs, _ = learned_tokens(processor, CONVERSATIONS, None)
    for row, answers in zip(runs, ANSWERS, strict=True):
        alone = [processor.tokenizer(answer + "</s>", add_special_tokens=False)["input_ids"] for answer in answers]
        assert row == alone
    assert processor.tokenizer.convert_ids_to_tokens(runs[0][0]) == ["▁red", "</s>"]


def test_two_prompts_of_one_style_tokenise_as_text(processor):
    """`<image>` for a video, as in official prompts, gives the same inputs as the chat template."""
    style = prompt_style("mvbench")
    prompt = render(style, MVBENCH_QUERY, placeholder="<image>")
    video = clip()["video"]
    raw = processor(text=prompt, videos=[video], return_tensors="pt")
    chat = processor.apply_chat_template(
        [user(clip(), text(MVBENCH_QUERY))],
        chat_template=chat_template("eval_mvbench", "mvbench"),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert torch.equal(raw["input_ids"], chat["input_ids"])
    assert (raw["input_ids"] == processor.video_token_id).sum() == 8
