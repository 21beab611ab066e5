"""The chat template of a language model, whatever it is, writes the same conversations once it knows media."""

import pytest
from build_llms import FAMILIES, TEMPLATES, THINKING, make_tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from hf_videollm.models.video_llm_chat_template import (
    KEPT_TEMPLATE,
    has_tags,
    keep_chat_template,
    tag_chat_template,
)

MEDIA = {"image": "<image>", "video": "<video>", "audio": "<audio>"}
SYSTEM = {"role": "system", "content": "  Be brief. "}
ROUNDS = [
    {"role": "user", "content": " What is it?\n"},
    {"role": "assistant", "content": " A dog \n"},
    {"role": "user", "content": "Is it A dog or </s>?"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nA dog."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
]
CHATS = [*(ROUNDS[:n] for n in range(1, 9)), [SYSTEM, *ROUNDS[:1]], [SYSTEM, *ROUNDS], ROUNDS[:0]]


class Words:
    """A tokenizer as far as templates know it."""

    special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}  # noqa: RUF012

    def __init__(self, chat_template: object) -> None:
        self.chat_template = chat_template


def render(template: str, chat: list, asks: bool, **variables: object) -> tuple[str, list[str]] | None:
    """What a template writes, and which parts of it are answers; `None` if it refuses."""
    try:
        texts, spans = render_jinja_template(
            conversations=[chat],
            chat_template=template,
            add_generation_prompt=asks,
            return_assistant_tokens_mask=has_tags(template),
            **Words.special_tokens_map,
            **variables,
        )
    except Exception:
        return None
    return texts[0], [texts[0][start:end] for start, end in (spans[0] if spans else [])]


def kept(name: str, query: str | None = None) -> str:
    template = keep_chat_template(Words(TEMPLATES[name]), MEDIA, query)
    assert template is not None
    assert template.startswith(KEPT_TEMPLATE)
    return template


@pytest.mark.parametrize("query", [None, "<iva_query>"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_written_as_before(name: str, query: str | None) -> None:
    template, refused = kept(name, query), 0
    for chat in CHATS:
        for asks in (False, True):
            for variables in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
                expected = render(TEMPLATES[name], chat, asks, **variables)
                blocks = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in chat]
                for form in (chat, blocks):
                    found = render(template, form, asks, **variables)
                    assert (found and found[0]) == (expected and expected[0])
                refused += expected is None
    # Two refuse system messages, and so do ours.
    assert (refused > 0) == (name in ("mistral", "gemma"))
    # The control: another text is another prompt.
    assert render(template, ROUNDS[:1], True) != render(template, [{**ROUNDS[0], "content": "Who?"}], True)


@pytest.mark.parametrize("query", [None, "<iva_query>"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_are_found(name: str, query: str | None) -> None:
    """Every answer with what ends it, and nothing of what is asked."""
    template = kept(name, query)
    chat = [ROUNDS[0], {**ROUNDS[1], "content": "A dog."}, ROUNDS[6], ROUNDS[7]]
    found = render(template, chat, False)
    assert found is not None
    _, answers = found
    ends = {"chatml": "<|im_end|>", "llama_3": "<|eot|>", "mistral": "</s>", "phi": "<|end|>", "tagged": ""}
    end = "<|im_end|>" if name == "tagged" and query else ends.get(name, "<|im_end|>")
    first, last = answers
    assert first == "A dog." + end
    thoughts = "<think>\n\n</think>\n\n" if name == "thinking" else ""
    assert last == f"{thoughts}Here.{end}" + ("\n</s>" if name == "phi" else "")


def test_the_thoughts_of_a_last_answer_are_learned_and_earlier_ones_are_gone() -> None:
    found = render(kept("thinking"), [*ROUNDS[2:4], *ROUNDS[2:4]], False)
    assert found is not None
    assert found[1] == ["A dog.<|im_end|>", "<think>\nHm.\n</think>\n\nA dog.<|im_end|>"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_media_are_placeholders_in_their_places(name: str) -> None:
    blocks = [
        {"type": "text", "text": "Before "},
        {"type": "video"},
        {"type": "image"},
        {"type": "text", "text": "between "},
        {"type": "audio"},
        {"type": "text", "text": "behind"},
    ]
    found = render(kept(name), [{"role": "user", "content": blocks}], True)
    text = "Before <video><image>\nbetween <audio>\nbehind"
    assert found == render(TEMPLATES[name], [{"role": "user", "content": text}], True)
    assert render(kept(name), [ROUNDS[0], {"role": "assistant", "content": blocks}], False) is None
    assert render(kept(name), [{"role": "user", "content": [{"type": "smell"}]}], True) is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_query_tokens_stand_right_before_answers_on_media(name: str) -> None:
    template = kept(name, "<q>")
    seen = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]}
    chat = [seen, {**ROUNDS[1], "content": "A dog."}, ROUNDS[6], ROUNDS[7]]
    plain = [{**seen, "content": "<video>\nWhat is it?"}, *chat[1:]]
    for length, asks in ((1, True), (2, False), (3, True), (4, False)):
        for placement in ("last", "every", "none"):
            found = render(template, chat[:length], asks, query_placement=placement)
            expected = render(TEMPLATES[name], plain[:length], asks)
            assert found is not None
            assert expected is not None
            assert found[0].replace("<q>", "") == expected[0]
            rounds = (length + 1) // 2
            assert found[0].count("<q>") == {"last": 1, "every": rounds, "none": 0}[placement]
            learned = length // 2
            assert len(found[1]) == (learned if placement != "last" else min(learned, int(not asks)))
            if asks and placement != "none":
                assert found[0].endswith("<q>")
            for answer in found[1] if placement != "none" else []:
                assert found[0].count("<q>" + answer) == 1
        # Of text alone there is none, whatever is asked for.
        assert "<q>" not in (render(template, ROUNDS[:1], True, query_placement="every") or [""])[0]


def test_templates_that_know_media_stay_as_they_are() -> None:
    template = kept("chatml")
    assert keep_chat_template(Words(template), MEDIA) == template
    assert keep_chat_template(Words({"default": template, "tool_use": CHATS}), MEDIA) == template
    assert keep_chat_template(Words(None), MEDIA) is None
    # One that knows no query tokens gets them.
    assert "query_placement" in str(keep_chat_template(Words(template), MEDIA, "<q>"))


def test_answers_that_cannot_be_found_are_not_guessed() -> None:
    """A template that turns text around: what it writes stays, and nothing is marked."""
    template = "{% for message in messages %}{{ message['content'] | reverse }};{% endfor %}"
    found = keep_chat_template(Words(template), MEDIA)
    assert not has_tags(found)
    assert render(str(found), ROUNDS, False) == render(template, ROUNDS, False)


def test_tokenizers_are_not_changed() -> None:
    tokenizer = make_tokenizer(FAMILIES["qwen3"])
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, dict(tokenizer.special_tokens_map)
    keep_chat_template(tokenizer, MEDIA)
    assert before == (tokenizer.backend_tokenizer.to_str(), THINKING, dict(tokenizer.special_tokens_map))


# As image-LLMs have them: blocks alone, and media in a form of their own.
OF_BLOCKS = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for block in message['content'] %}{{ '<img>' if block['type'] == 'image' else block['text'] }}{% endfor %}"
    "{{ '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


def test_templates_of_image_llms_get_tags_and_nothing_else() -> None:
    class Processor(Words):
        tokenizer = Words(None)

    template = tag_chat_template(Processor(OF_BLOCKS))
    assert template is not None
    seen = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}
    for chat in ([seen], [seen, answer], [seen, answer, seen], [seen, answer, seen, answer]):
        for asks in (False, True):
            found, expected = render(template, chat, asks), render(OF_BLOCKS, chat, asks)
            assert found is not None
            assert expected is not None
            assert found[0] == expected[0]
            assert found[1] == ["A dog.<end>"] * chat.count(answer)
    # Tags of its own stay, and so does what nobody can read.
    assert tag_chat_template(Processor(TEMPLATES["tagged"])) == TEMPLATES["tagged"]
    assert tag_chat_template(Processor("{{ messages | length }}")) == "{{ messages | length }}"
