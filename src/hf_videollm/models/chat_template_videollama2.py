"""Chat templates of VideoLLaMA2, which turn messages with media blocks into the prompts of the official code.

The official code writes the media and the text of a message into one string, and passes that to the chat template of
the language model. The templates made here do the same: they begin with code that turns the blocks of each message into
a string, and continue with the chat template of the language model.
"""

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

# The system message of the official code for Mistral and Mixtral, with its tags, copied exactly
# (DAMO-NLP-SG/VideoLLaMA2 @ c0bb03a, `mm_infer`).
MISTRAL_SYSTEM_PROMPT = (
    "<<SYS>>\n"
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information.\n"
    "<</SYS>>"
)

# The released checkpoints have two kinds of language models: Qwen2, and Mistral or Mixtral. These are their chat
# templates, with tags around the text that a model is trained on: each answer and its end token. The first is ChatML as
# in Qwen2, with Qwen2's system message if the conversation has none.
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
# The second is Mistral's, with the system message at the beginning of the first question. This position is an
# assumption: see docs/designs/videollama2.md#language-model.
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
# Test conversations: with and without a system message, ending with an answer or with a question. If two templates
# write the same text for all of them, they are regarded as equal.
PROBES: list[list[dict[str, str]]] = [CHAT, CHAT[:2], [SYSTEM, *CHAT], [SYSTEM, *CHAT[:2]]]


def wrap_chat_template(
    template: str, system_prompt: str | None = None, modalities: tuple[str, ...] = ("image", "video")
) -> str:
    r"""Make a chat template for messages with media from a language model's template, which accepts only strings.

    Each medium is written at its place among the blocks, and a line break follows each run of adjacent media, so a
    message may begin with `<video>\n`. As in the official code, the first message of the user begins with a line break
    even without media. Only messages of the user may have media. The official code allows media only in the first
    message; here, later messages may have them, too. If the conversation has a system message, it is used instead of
    `system_prompt`.

    Args:
        template: chat template of the checkpoint's tokenizer. If it writes the same text as `CHATML_BODY` or
            `MISTRAL_BODY`, that one is used instead: its `{% generation %}` tags mark the answers for training.
        system_prompt: system message for conversations that have none; with `None`, the template decides.
        modalities: types of blocks, besides text, that a message of the user may have. The placeholder of type
            `"video"` is `<video>`, and likewise for others.

    Raises:
        ValueError: there is a system prompt, but the template does not accept system messages.
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
    """The template for language models that use the ChatML format, such as Qwen2."""
    return _blocks_to_strings(None, modalities) + CHATML_BODY


def _blocks_to_strings(system_prompt: str | None, modalities: tuple[str, ...]) -> str:
    """The first part of a template: code that turns the content of each message in `messages` into a string."""
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
    """Source code of a Jinja string with this text."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _probe(template: str) -> list[str | None]:
    """The text that a template writes for each of `PROBES`; `None` if it raises an error."""
    return [_render(template, messages) for messages in PROBES]


def _render(template: str, messages: list[dict[str, str]]) -> str | None:
    tokens: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    ends_with_question = messages[-1]["role"] == "user"
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=ends_with_question, **tokens
        )
    except Exception:  # the code of a template may raise any kind of error
        return None
    return rendered[0]


__all__ = ["MISTRAL_BODY", "MISTRAL_SYSTEM_PROMPT", "default_chat_template", "wrap_chat_template"]
