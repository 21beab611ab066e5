r"""Extends the chat template of a language model, so that it accepts media and marks the answers to be trained on.

The chat template of a language model accepts only strings as message contents, does not mark which part of its output
is an answer, and may contain any Jinja code. So this module does not edit it. It wraps the template, as a macro, in a
longer template, which

1. turns the list of blocks of each message into one string: each medium becomes its placeholder, and a line break
   follows each run of placeholders;
2. calls the macro to write the conversation. For a conversation without media, the output is exactly the output of the
   language model's own tokenizer;
3. finds the answers in that output. An answer begins where the prompt for it ends (the earlier messages, written with
   `add_generation_prompt`), and ends where the conversation up to and including this answer ends. Some templates write
   an answer differently if other messages follow it (Qwen3 then drops the thoughts). In that case the macro is called
   once more with marker characters around the text of the answer, and the positions of the markers are used;
4. outputs the conversation piece by piece, with each answer inside `{% generation %}`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

# First line of the templates made here. Such a template writes all special tokens itself, so the tokenizer must not add
# any, as in the `apply_chat_template` of the language model's own tokenizer.
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
# The line break after the first tag makes TEMPLATE start on a line of its own, as it does in its file; Jinja removes
# that line break. `{{ '' }}` keeps blanks at the end of TEMPLATE; a tag that follows directly would remove them.
_MACRO = "{%- macro language_model(messages, add_generation_prompt) %}\nTEMPLATE{{ '' }}{% endmacro -%}"
# The length of the longest prefix that two texts have in common, found by binary search.
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
# START and END are replaced by two code points that Unicode never assigns to a character. The answer also includes the
# special tokens directly after its text (such as "<|im_end|>"), as long as they are the same whether another message
# follows or not. If the common text ends within a special token ("<|" of "<|user|>"), this incomplete part is dropped.
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
# For IVA only: the position of the query tokens, and which answers are training targets as a result. The rules are
# explained at `chat_template_vicuna.QUERY_CHAT_TEMPLATE`.
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
# Test conversations: with and without a system message, some ending with an answer and some with a question.
PROBES: list[list[dict[str, str]]] = [_CHAT[:1], _CHAT[:2], _CHAT[:3], _CHAT, [_SYSTEM, *_CHAT[:1]], [_SYSTEM, *_CHAT]]
# The special tokens that templates use as variables.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def keep_chat_template(tokenizer: Any, placeholders: Mapping[str, str], query_token: str | None = None) -> str | None:
    """Extend the chat template of a language model to media, and put `{% generation %}` around its answers.

    Args:
        tokenizer: the tokenizer of the language model; this function does not change it.
        placeholders: maps the type of a block (`"image"`, `"video"`, `"audio"`) to its placeholder token.
        query_token: a token that only IVA has: it marks where a block of query tokens belongs. The template variable
            `query_placement` decides where the template writes it.

    Returns:
        A template that writes conversations without media exactly as the tokenizer's template does. If the
        tokenizer's template already writes placeholders for media, it is returned unchanged. The result has no
        `{% generation %}` tags if the tokenizer's template has none and its answers cannot be found in its output.
        `None` if the tokenizer has no chat template.
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
    """Put `{% generation %}` around the answers in the chat template of an image-LLM, which already accepts media.

    Args:
        processor: the processor of the image-LLM; this function does not change it.

    Returns:
        The template with tags. The template is returned unchanged if it already has tags, or if its answers cannot be
        found in its output. `None` if the processor has no chat template.
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
    """Whether a template marks its answers with `{% generation %}`."""
    return template is not None and TAG.search(template) is not None


def _template_of(owner: Any) -> str | None:
    """The chat template of a tokenizer or processor; if it has several named templates, the one named "default"."""
    template = getattr(owner, "chat_template", None)
    return template.get("default") if isinstance(template, Mapping) else template


def _special_tokens(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    known = getattr(tokenizer, "special_tokens_map", None) or {}
    return tuple((name, str(known[name])) for name in _SPECIAL if known.get(name) is not None)


def _tagged(template: str, rules: Mapping[str, str]) -> str:
    """The template wrapped in a macro, followed by the code that calls the macro and outputs the conversation.

    Jinja drops one line break at the end of a template, so it is removed here, too.
    """
    # transformers records positions of `{% generation %}` relative to the current output. Inside a macro they would be
    # relative to the output of the macro, so the tags of the original template are replaced by `{% if true %}`.
    plain = TAG.sub(lambda match: f"{{%{match[1]} {'endif' if match[2] else 'if true'} {match[3]}%}}", template)
    write = _WRITE
    for name, text in rules.items():
        write = write.replace(name, text)
    return _MACRO.replace("TEMPLATE", plain.removesuffix("\n")) + _SHARED_LENGTH + write


def _writes_alike(
    longer: str, template: str, probes: Sequence[Any], special_tokens: tuple[tuple[str, str], ...]
) -> bool:
    """Whether both templates write the same text for all probes, and `longer` also finds every answer in it."""
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
    """The text that a template writes (`None` if it raises an error), and the start and end of each answer in it."""
    try:
        rendered, answers = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            add_generation_prompt=messages[-1]["role"] == "user",
            return_assistant_tokens_mask=has_tags(template),
            **dict(special_tokens),
        )
    except Exception:  # the code of a template may raise any kind of error
        return None, []
    return rendered[0], answers[0] if answers else []


def _literal(texts: tuple[tuple[str, str], ...]) -> str:
    """Source code of a Jinja dict with these names and texts."""
    return "{" + ", ".join(f"'{_escape(name)}': '{_escape(text)}'" for name, text in texts) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


__all__ = ["KEPT_TEMPLATE", "has_tags", "keep_chat_template", "tag_chat_template"]
