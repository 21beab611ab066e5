"""Chat templates of VideoLLaMA2: from messages with media blocks to the prompts of the official code.

The official code writes media and text of a message into one string, and gives that to the chat template of the
language model. So does a wrapped template here: its beginning turns blocks into strings, its rest is the template of
the checkpoint.
"""

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

# What the official code says to Mistral and Mixtral before everything else, letter by letter (DAMO-NLP-SG/VideoLLaMA2
# @ c0bb03a, `mm_infer`), tags included.
MISTRAL_SYSTEM_PROMPT = (
    "<<SYS>>\n"
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information.\n"
    "<</SYS>>"
)

# The two known templates of language models, with tags around what a model is trained to write: an answer and its end.
# ChatML as Qwen2 writes it, with its own system message where there is none.
CHATML_BODY = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] != 'system' -%}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ message['content'] + '<|im_end|>' }}{%- endgeneration -%}"
    "{%- else -%}{{ message['content'] + '<|im_end|>' }}{%- endif -%}"
    "{{ '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
# Mistral's, with the system message at the beginning of the first question. An assumption: see
# docs/designs/videollama2.md#language-model.
MISTRAL_BODY = (
    "{{ bos_token }}"
    "{%- set opening = namespace(text='') -%}"
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] == 'system' -%}"
    "{%- set opening.text = message['content'] + '\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ '[INST] ' + opening.text + message['content'] + ' [/INST]' }}"
    "{%- set opening.text = '' -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ ' ' + message['content'] + eos_token }}{%- endgeneration -%}"
    "{%- else -%}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + message['role'] + '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)

SYSTEM = {"role": "system", "content": "s"}
CHAT = [
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "v"},
]
# Two templates that write these alike are taken for the same. The cases: with a system message and without, an
# answer last and a question last.
PROBES: list[list[dict[str, str]]] = [CHAT, CHAT[:2], [SYSTEM, *CHAT], [SYSTEM, *CHAT[:2]]]


def wrap_chat_template(
    template: str, system_prompt: str | None = None, modalities: tuple[str, ...] = ("image", "video")
) -> str:
    r"""A chat template for messages with media, made of a language model's template for strings.

    Media keep their place among the blocks; media next to each other form one run, and a line break follows each run,
    so that a message begins `<video>\n`. The first message of the user begins with that line break also without
    media, as in the official code. Only messages of the user hold media; the official code allows them in the first
    one only, here a later message may hold them too. A system message takes the place of `system_prompt`, as it is.

    Args:
        template: chat template of the checkpoint's tokenizer. If it is one of the two known ones, by what it writes,
            its equal with `{% generation %}` tags is used, so that answers can be found for training.
        system_prompt: system message of conversations that have none; the template decides when `None`.
        modalities: kinds of blocks, besides text, that a user may write; the placeholder of `"video"` is `<video>`.

    Raises:
        ValueError: there is a system prompt, and the template accepts none.
    """
    written = _probe(template)
    if system_prompt is not None and written[-1] is None:
        raise ValueError(
            "The chat template accepts no system message, but VideoLLaMA2 gives one to this language model: use "
            "chat_template_videollama2.MISTRAL_BODY, or system_prompt=None."
        )
    body = next((known for known in (CHATML_BODY, MISTRAL_BODY) if _probe(known) == written), template)
    return _blocks_to_strings(system_prompt, modalities) + body


def default_chat_template(modalities: tuple[str, ...] = ("image", "video")) -> str:
    """The template for language models that speak ChatML, such as Qwen2."""
    return _blocks_to_strings(None, modalities) + CHATML_BODY


def _blocks_to_strings(system_prompt: str | None, modalities: tuple[str, ...]) -> str:
    """Beginning of a template that gives every message of `messages` a string for its content."""
    kinds = ", ".join(repr(kind) for kind in ("text", *modalities))
    opening = ""
    if system_prompt is not None:
        text = _quote(system_prompt)
        opening = (
            "{%- if messages[0]['role'] != 'system' -%}"
            f"{{%- set chat.messages = [{{'role': 'system', 'content': {text}}}] -%}}"
            "{%- endif -%}"
        )
    return (
        "{%- set chat = namespace(messages=[], text='', is_first=true) -%}"
        + opening
        + "{%- for message in messages -%}"
        "{%- set blocks = message['content'] -%}"
        "{%- if blocks is string -%}{%- set blocks = [{'type': 'text', 'text': blocks}] -%}{%- endif -%}"
        "{%- set chat.text = '' -%}"
        "{%- set media = blocks | rejectattr('type', 'equalto', 'text') | list -%}"
        "{%- if message['role'] == 'user' and chat.is_first -%}"
        "{%- set chat.is_first = false -%}"
        "{%- if not media -%}{%- set chat.text = '\\n' -%}{%- endif -%}"
        "{%- endif -%}"
        "{%- for block in blocks -%}"
        f"{{%- if block['type'] not in ([{kinds}] if message['role'] == 'user' else ['text']) -%}}"
        "{{ raise_exception('A ' + message['role'] + ' message cannot hold ' + block['type'] + '.') }}"
        "{%- endif -%}"
        "{%- if block['type'] == 'text' -%}{%- set chat.text = chat.text + block['text'] -%}"
        "{%- else -%}"
        "{%- set chat.text = chat.text + '<' + block['type'] + '>' -%}"
        "{%- if loop.last or loop.nextitem['type'] == 'text' -%}{%- set chat.text = chat.text + '\\n' -%}{%- endif -%}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- set chat.messages = chat.messages + [dict(message, content=chat.text)] -%}"
        "{%- endfor -%}"
        "{%- set messages = chat.messages -%}"
    )


def _quote(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _probe(template: str) -> list[str | None]:
    """What a template writes for the probes; `None` where it raises an error."""
    return [_render(template, messages) for messages in PROBES]


def _render(template: str, messages: list[dict[str, str]]) -> str | None:
    tokens: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    ends_with_question = messages[-1]["role"] == "user"
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=ends_with_question, **tokens
        )
    except Exception:  # templates raise what they like
        return None
    return rendered[0]


__all__ = ["MISTRAL_BODY", "MISTRAL_SYSTEM_PROMPT", "default_chat_template", "wrap_chat_template"]
