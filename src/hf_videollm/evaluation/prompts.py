"""Turns a question about videos into the text of a prompt, in the style of an official evaluation.

A style consists of texts. `render` makes a prompt from it, and `to_chat_template` a Jinja chat template. The styles are
in `prompts_<design>.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = [
    "Piece",
    "PromptStyle",
    "conversation_pieces",
    "join_pieces",
    "label_spans",
    "render",
    "to_chat_template",
    "without_query_prompts",
]


@dataclass(frozen=True)
class PromptStyle:
    r"""The texts around system message, media, questions and answers. They are used exactly as they are written.

    Attributes:
        system: text before everything else; may be empty.
        separator: text after the system text, and after a turn that holds only media.
        user_role: text at the beginning of a turn of the user.
        user_end: text after a question.
        assistant_role: text before an answer.
        assistant_end: text after an answer; a model is trained to write it.
        media_alone: whether media have their own turn before the question; otherwise they are in the same turn.
        media_suffix: text after the placeholders.
        pre_query: text before every question, separated by a blank.
        post_query: text after every question, separated by a blank.
        answer_prefix: the beginning of the answer, which the prompt contains after `assistant_role`.

    Example:
        >>> style = PromptStyle(system="Be brief.", media_suffix="\n", media_alone=True)
        >>> render(style, "What moves?")
        'Be brief. USER:<video>\n USER:What moves? ASSISTANT:'
    """

    system: str = ""
    separator: str = " "
    user_role: str = "USER:"
    user_end: str = " "
    assistant_role: str = "ASSISTANT:"
    assistant_end: str = "</s>"
    media_alone: bool = False
    media_suffix: str = " "
    pre_query: str = ""
    post_query: str = ""
    answer_prefix: str = ""


class Piece(NamedTuple):
    """A part of a rendered conversation. `learned` says whether a model is trained to write it."""

    text: str
    learned: bool = False


def render(
    style: PromptStyle,
    question: str,
    *,
    history: Sequence[tuple[str, str]] = (),
    num_media: int = 1,
    placeholder: str = "<video>",
) -> str:
    """The prompt, up to the place where the model answers.

    Args:
        style: the style.
        question: the question.
        history: earlier turns, (question, answer). The media come before the first question.
        num_media: number of placeholders. (With more than one, the original PLLaVA splits the text `<image>` of its
            `plain` style; here every medium gets a complete placeholder.)
        placeholder: the text that stands for one medium.
    """
    return join_pieces(conversation_pieces(style, [*history, (question, None)], num_media, placeholder))


def conversation_pieces(
    style: PromptStyle,
    turns: Sequence[tuple[str, str | None]],
    num_media: int = 1,
    placeholder: str = "<video>",
) -> list[Piece]:
    """A conversation, split where roles begin and end.

    Args:
        style: the style.
        turns: (question, answer). The answer of the last turn may be `None`, if the model is to write it. With an empty
            question, as in captioning, the turn holds only the media.
        num_media: number of placeholders.
        placeholder: the text that stands for one medium.
    """
    pieces = [Piece(style.system + style.separator)] if style.system else []
    media = placeholder * num_media + style.media_suffix if num_media else ""
    for question, answer in turns:
        if media and style.media_alone:
            pieces += [Piece(style.user_role), Piece(media + style.separator)]
            media = ""
        if media or question:
            pieces += [Piece(style.user_role), Piece(media + _wrap(style, question) + style.user_end)]
            media = ""
        pieces.append(Piece(style.assistant_role))
        if answer is not None:
            pieces.append(Piece(answer + style.assistant_end, learned=True))
        elif style.answer_prefix:
            pieces.append(Piece(style.answer_prefix))
    return pieces


def join_pieces(pieces: Sequence[Piece]) -> str:
    """The text of a conversation."""
    return "".join(piece.text for piece in pieces)


def label_spans(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Start and end positions, in the joined text, of all parts that a model is trained to write.

    Examples:
        >>> pieces = conversation_pieces(PromptStyle(), [("What moves?", "A dog.")])
        >>> [join_pieces(pieces)[start:end] for start, end in label_spans(pieces)]
        ['A dog.</s>']
    """
    spans, start = [], 0
    for piece in pieces:
        if piece.learned:
            spans.append((start, start + len(piece.text)))
        start += len(piece.text)
    return spans


def without_query_prompts(style: PromptStyle) -> PromptStyle:
    """The style without texts around questions and without answer prefix, for an open conversation."""
    return replace(style, pre_query="", post_query="", answer_prefix="")


def to_chat_template(style: PromptStyle) -> str:
    """The style as a Jinja chat template: `processor.apply_chat_template(messages, chat_template=...)`.

    A system message replaces the system text of the style. The media of a message come before its text, and the blocks
    of its text are concatenated. Answers and their end mark are inside `{% generation %}`, so that
    `return_assistant_tokens_mask=True` marks the tokens that a model is trained to write.
    """
    question = " + ' ' + ".join(
        part for part in (_quote(style.pre_query), "text", _quote(style.post_query)) if part != '""'
    )
    query = f"({question} if text else '') + {_quote(style.user_end)}"
    media_turn, media_prefix = "", f"(media + {_quote(style.media_suffix)} if media else '') + "
    if style.media_alone:
        media = f"{_quote(style.user_role)} + media + {_quote(style.media_suffix + style.separator)}"
        media_turn, media_prefix = f"{{%- if media -%}}{{{{ {media} }}}}{{%- endif -%}}", ""
    return (
        "{%- macro text_of(message) -%}"
        "{%- if message['content'] is string -%}{{ message['content'] }}"
        "{%- else -%}{%- for block in message['content'] -%}"
        "{%- if block['type'] == 'text' -%}{{ block['text'] }}"
        "{%- elif block['type'] not in ['video', 'image'] or message['role'] != 'user' -%}"
        "{{ raise_exception('A ' + message['role'] + ' message cannot hold ' + block['type'] + ' in this style.') }}"
        "{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}"
        "{%- macro media_of(message) -%}"
        "{%- if message['content'] is not string -%}{%- for block in message['content'] -%}"
        "{%- if block['type'] in ['video', 'image'] -%}{{ '<' + block['type'] + '>' }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}"
        f"{{%- set state = namespace(system={_quote(style.system)}) -%}}"
        "{%- for message in messages if message['role'] == 'system' -%}"
        "{%- set state.system = text_of(message) -%}"
        "{%- endfor -%}"
        f"{{%- if state.system -%}}{{{{ state.system + {_quote(style.separator)} }}}}{{%- endif -%}}"
        "{%- for message in messages -%}"
        "{%- set text = text_of(message) -%}"
        "{%- if message['role'] == 'user' -%}"
        "{%- set media = media_of(message) -%}"
        f"{media_turn}"
        f"{{%- if text{'' if style.media_alone else ' or media'} -%}}"
        f"{{{{ {_quote(style.user_role)} + {media_prefix}{query} }}}}"
        "{%- endif -%}"
        "{%- elif message['role'] == 'assistant' -%}"
        f"{{{{ {_quote(style.assistant_role)} }}}}"
        f"{{%- generation -%}}{{{{ text + {_quote(style.assistant_end)} }}}}{{%- endgeneration -%}}"
        "{%- elif message['role'] != 'system' -%}"
        "{{ raise_exception('Roles are system, user and assistant, not ' + message['role'] + '.') }}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        f"{{{{ {_quote(style.assistant_role + style.answer_prefix)} }}}}"
        "{%- endif -%}"
    )


def _wrap(style: PromptStyle, question: str) -> str:
    return " ".join(part for part in (style.pre_query, question, style.post_query) if part) if question else ""


def _quote(text: str) -> str:
    """The text as a Jinja string literal. Jinja understands the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)
