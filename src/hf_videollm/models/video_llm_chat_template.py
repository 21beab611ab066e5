r"""The language model's own chat template, for messages with media and with tags around what a model learns to write.

A template of a language model knows strings alone, says nowhere which of its text is an answer, and can be anything. So
it is not edited: it becomes a macro inside of a longer template, which

1. turns the blocks of each message into a string, media as placeholders, a line break behind each run of them;
2. has the macro write the conversation. Of text alone this is, letter by letter, what the language model's tokenizer
   writes;
3. finds the answers in it. An answer begins where the prompt that asks for it ends (the conversation before it, with
   `add_generation_prompt`), and ends with the conversation up to it. Templates that write an answer in another way once
   it is no longer the last one (Qwen3 leaves out its thoughts) are asked again with marks around its text;
4. writes it in pieces, the answers inside of `{% generation %}`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

# Says that the tokenizer adds nothing to a prompt, as in the `apply_chat_template` of the language model's tokenizer.
KEPT_TEMPLATE = "{#- The chat template of the language model, kept by hf_videollm. -#}"
TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")

_NEW_CHAT = "{%- set chat = namespace(messages=[], text='', place=0, start=0, end=0, media=0, counts=[], last=-1) -%}"
_BLOCKS_TO_TEXT = (
    "{%- set placeholders = PLACEHOLDERS -%}"
    "{%- for message in messages -%}"
    "{%- set blocks = message['content'] -%}"
    "{%- if blocks is defined and blocks is not none and blocks is not string -%}"
    "{%- set chat.text = '' -%}"
    "{%- for block in blocks -%}"
    "{%- if block['type'] == 'text' -%}{%- set chat.text = chat.text + block['text'] -%}"
    "{%- elif message['role'] == 'user' and block['type'] in placeholders -%}"
    "{%- set is_end = loop.last or loop.nextitem['type'] == 'text' -%}"
    "{%- set chat.text = chat.text + placeholders[block['type']] + ('\\n' if is_end else '') -%}"
    "{%- set chat.media = chat.media + 1 -%}"
    "{%- else -%}"
    "{{ raise_exception('A ' + message['role'] + ' message cannot hold ' + block['type'] + '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set chat.messages = chat.messages + [dict(message, content=chat.text)] -%}"
    "{%- else -%}"
    "{%- set chat.messages = chat.messages + [message] -%}"
    "{%- endif -%}"
    "{%- set chat.counts = chat.counts + [chat.media] -%}"
    "{%- if message['role'] == 'assistant' -%}{%- set chat.last = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
)
# The first line break belongs to the tag before it, as the template's own first line began a line. The empty text
# keeps blanks at its end, which a tag would take away.
_MACRO = "{%- macro language_model(messages, add_generation_prompt) %}\nTEMPLATE{{ '' }}{% endmacro -%}"
# The number of characters with which both texts begin, by halving.
_SHARED_LENGTH = (
    "{%- macro shared_length(one, other) -%}"
    "{%- set span = namespace(low=0, high=[one | length, other | length] | min) -%}"
    "{%- for step in range(32) if span.low < span.high -%}"
    "{%- set middle = (span.low + span.high + 1) // 2 -%}"
    "{%- if one[:middle] == other[:middle] -%}{%- set span.low = middle -%}"
    "{%- else -%}{%- set span.high = middle - 1 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{{- span.low -}}"
    "{%- endmacro -%}"
)
# START and END stand for characters that Unicode keeps free of use. Behind the answer's text come the signs that end
# it, as far as they do not depend on what follows; half a sign ("<|" of "<|user|>") is none.
_FIND_BY_MARKS = (
    "{%- set chat.start = 0 -%}{%- set chat.end = 0 -%}"
    "{%- set content = message['content'].rstrip() if message['content'] is string else '' -%}"
    "{%- set words = content.split('</think>') | last | trim -%}"
    "{%- if words -%}"
    "{%- set marked = content[:content | length - words | length] + 'START' + words + 'END' -%}"
    "{%- set others = chat.messages[loop.index0 + 1:] -%}"
    "{%- set text = language_model("
    "chat.messages[:loop.index0] + [dict(message, content=marked)] + others, add_generation_prompt) -%}"
    "{%- if text.replace('START', '').replace('END', '') == chat.text -%}"
    "{%- set chat.start = text.find('START') -%}"
    "{%- set chat.end = text.find('END') - 1 -%}"
    "{%- set behind = after.split(words) | last -%}"
    "{%- set behind = behind[:shared_length(behind, chat.text[chat.end:]) | int] -%}"
    "{%- if '<' in (behind.split('>') | last) -%}{%- set behind = behind[:behind.rfind('<')] -%}{%- endif -%}"
    "{%- set chat.end = chat.end + behind.rstrip() | length -%}"
    "{%- endif -%}"
    "{%- endif -%}"
).replace("START", "\ufdd2").replace("END", "\ufdd3")  # fmt: skip
_WRITE = (
    "{%- set add_generation_prompt = add_generation_prompt | default(false) -%}"
    "{%- set chat.text = language_model(chat.messages, add_generation_prompt) -%}"
    "QUERY_RULE"
    "{%- for message in chat.messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- set asked = language_model(chat.messages[:loop.index0], true) if loop.index0 else '' -%}"
    "{%- set after = language_model(chat.messages[:loop.index], false) -%}"
    "{%- set chat.start = shared_length(asked, after) | int -%}"
    "{%- set chat.end = after.rstrip() | length -%}"
    "{%- if chat.text[:chat.end] != after[:chat.end] -%}" + _FIND_BY_MARKS + "{%- endif -%}"
    "{%- if eos_token and chat.text[chat.end:].startswith(eos_token) -%}"
    "{%- set chat.end = chat.end + eos_token | length -%}"
    "{%- endif -%}"
    "{%- if chat.place <= chat.start and chat.start < chat.end -%}"
    "{{- chat.text[chat.place:chat.start] -}}"
    "ANSWER"
    "{%- set chat.place = chat.end -%}"
    "{%- endif -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{- chat.text[chat.place:] -}}"
    "LAST_QUERY"
)
_LEARNED = "{%- generation -%}{{- chat.text[chat.start:chat.end] -}}{%- endgeneration -%}"
# IVA, see `chat_template_vicuna.QUERY_CHAT_TEMPLATE`: where query tokens stand, and which answers are learned then.
_QUERY_RULE = (
    "{%- set placement = query_placement | default('last') -%}"
    "{%- if add_generation_prompt -%}{%- set chat.last = -1 -%}{%- endif -%}"
    "{%- set seen = chat.media if add_generation_prompt else (chat.counts[chat.last] if chat.last >= 0 else 0) -%}"
    "{%- set one_answer = placement == 'last' and seen > 0 -%}"
)
_ANSWER_BEHIND_QUERY = (
    "{%- set is_last = loop.index0 == chat.last -%}"
    "{%- if (placement == 'every' and chat.counts[loop.index0] > 0) or (one_answer and is_last) -%}"
    "{{- QUERY -}}"
    "{%- endif -%}"
    "{%- if is_last or not one_answer -%}" + _LEARNED + "{%- else -%}"
    "{{- chat.text[chat.start:chat.end] -}}"
    "{%- endif -%}"
)
_LAST_QUERY = (
    "{%- if add_generation_prompt and (one_answer or (placement == 'every' and chat.media > 0)) -%}"
    "{{- QUERY -}}"
    "{%- endif -%}"
)

_SYSTEM = {"role": "system", "content": "Be kind."}
_CHAT = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "A dog."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
]
# With a system message and without, an answer last and a question last.
PROBES: list[list[dict[str, str]]] = [_CHAT[:1], _CHAT[:2], _CHAT[:3], _CHAT, [_SYSTEM, *_CHAT[:1]], [_SYSTEM, *_CHAT]]
# What templates read of a tokenizer.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def keep_chat_template(tokenizer: Any, placeholders: Mapping[str, str], query_token: str | None = None) -> str | None:
    """The template of a language model for messages with media, and with `{% generation %}` around the answers.

    Args:
        tokenizer: of the language model; it stays as it is.
        placeholders: kind of block (`"image"`, `"video"`, `"audio"`) -> the token that stands for it.
        query_token: IVA's; it is written once where a block of query tokens belongs, by the variable
            `query_placement`.

    Returns:
        A template that writes conversations of text as the tokenizer's own does, or that one itself if it writes media
        as placeholders already. Without tags, where the tokenizer's has none and does not show where its answers are.
        `None` if the tokenizer has none.
    """
    template = _template_of(tokenizer)
    return template and _keep(template, tuple(placeholders.items()), query_token, _special_tokens(tokenizer))


@lru_cache(maxsize=64)
def _keep(
    template: str,
    placeholders: tuple[tuple[str, str], ...],
    query_token: str | None,
    special_tokens: tuple[tuple[str, str], ...],
) -> str:
    if _writes_placeholders(template, placeholders) and (query_token is None or "query_placement" in template):
        return template
    blocks = _NEW_CHAT + _BLOCKS_TO_TEXT.replace("PLACEHOLDERS", _literal(placeholders))
    as_it_is = f"{KEPT_TEMPLATE}{blocks}{{%- set messages = chat.messages %}}\n{template}"
    if query_token is None:
        if has_tags(template):
            return as_it_is
        rules = {"QUERY_RULE": "", "LAST_QUERY": "", "ANSWER": _LEARNED}
    else:
        query = f"'{_escape(query_token)}'"
        rules = {
            "QUERY_RULE": _QUERY_RULE,
            "LAST_QUERY": _LAST_QUERY.replace("QUERY", query),
            "ANSWER": _ANSWER_BEHIND_QUERY.replace("QUERY", query),
        }
    kept = KEPT_TEMPLATE + blocks + _tagged(template, rules)
    return kept if _writes_alike(kept, template, PROBES, special_tokens) else as_it_is


def tag_chat_template(processor: Any) -> str | None:
    """The template of an image-LLM, which writes its blocks itself, with `{% generation %}` around the answers.

    Args:
        processor: of the image-LLM; it stays as it is.

    Returns:
        Its own template where that has tags, or does not show where its answers are. `None` if it has none.
    """
    template = _template_of(processor)
    return template and _tag(template, _special_tokens(processor.tokenizer))


@lru_cache(maxsize=64)
def _tag(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str:
    if has_tags(template):
        return template
    messages = "{%- set chat.messages = messages -%}"
    tagged = _NEW_CHAT + messages + _tagged(template, {"QUERY_RULE": "", "LAST_QUERY": "", "ANSWER": _LEARNED})
    probes = [
        [dict(message, content=[{"type": "text", "text": message["content"]}]) for message in chat] for chat in PROBES
    ]
    return tagged if _writes_alike(tagged, template, probes, special_tokens) else template


def has_tags(template: str | None) -> bool:
    """Whether a template says which of its text is an answer."""
    return template is not None and TAG.search(template) is not None


def _template_of(owner: Any) -> str | None:
    """The one template of a tokenizer or processor, or of several by name that of conversations."""
    template = getattr(owner, "chat_template", None)
    return template.get("default") if isinstance(template, Mapping) else template


def _special_tokens(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    known = getattr(tokenizer, "special_tokens_map", None) or {}
    return tuple((name, str(known[name])) for name in _SPECIAL if known.get(name) is not None)


def _tagged(template: str, rules: Mapping[str, str]) -> str:
    """The macro and what writes with it. A template that ends in a line break does not write it."""
    # Inside of a macro the tags would count from the wrong place.
    plain = TAG.sub(lambda match: f"{{%{match[1]} {'endif' if match[2] else 'if true'} {match[3]}%}}", template)
    write = _WRITE
    for name, text in rules.items():
        write = write.replace(name, text)
    return _MACRO.replace("TEMPLATE", plain.removesuffix("\n")) + _SHARED_LENGTH + write


def _writes_alike(
    longer: str, template: str, probes: Sequence[Any], special_tokens: tuple[tuple[str, str], ...]
) -> bool:
    """Whether both write the same conversations, and the longer one finds every answer in them."""
    for messages in probes:
        expected, _ = _render(template, messages, special_tokens)
        written, answers = _render(longer, messages, special_tokens)
        if written != expected:
            return False
        texts = [message["content"] for message in messages if message["role"] == "assistant"]
        texts = [text if isinstance(text, str) else text[0]["text"] for text in texts]
        found = [written[start:end] for start, end in answers] if written is not None else texts
        if len(found) != len(texts) or not all(text in part for text, part in zip(texts, found, strict=True)):
            return False
    return True


def _writes_placeholders(template: str, placeholders: tuple[tuple[str, str], ...]) -> bool:
    for kind, token in placeholders:
        messages = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "Who?"}]}]
        written, _ = _render(template, messages, ())
        if written is None or written.count(token) != 1:
            return False
    return True


def _render(
    template: str, messages: Sequence[Any], special_tokens: tuple[tuple[str, str], ...]
) -> tuple[str | None, list[tuple[int, int]]]:
    """What a template writes, `None` where it raises an error, and first and last character of each answer."""
    try:
        rendered, answers = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            add_generation_prompt=messages[-1]["role"] == "user",
            return_assistant_tokens_mask=has_tags(template),
            **dict(special_tokens),
        )
    except Exception:  # templates raise what they like
        return None, []
    return rendered[0], answers[0] if answers else []


def _literal(texts: tuple[tuple[str, str], ...]) -> str:
    """A Jinja dict of strings."""
    return "{" + ", ".join(f"'{_escape(name)}': '{_escape(text)}'" for name, text in texts) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


__all__ = ["KEPT_TEMPLATE", "has_tags", "keep_chat_template", "tag_chat_template"]
