r"""Chat templates in the format of Vicuna's training data, for designs whose papers do not show their prompts.

A conversation is written as "USER: <video>\nquestion ASSISTANT: answer</s>". Vicuna has no media, so this file decides
the rest: there is a system message only if the conversation has one; each medium is written at its place among the
text blocks; a line break follows each run of media; nothing is written between the frames of a video. The generation
tags mark the text that a model is trained on. An answer begins with the blank after "ASSISTANT:".
"""

_CHECK_ROLE = (
    "{%- set role = message['role'] -%}"
    "{%- if role not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + role + '.') }}"
    "{%- endif -%}"
)
# Joins the blocks of a message into the string `chat.text`, and counts media in `chat.media`.
_BLOCKS_TO_TEXT = (
    "{%- if message['content'] is string -%}{%- set chat.text = message['content'] -%}"
    "{%- else -%}"
    "{%- set chat.text = '' -%}"
    "{%- for block in message['content'] -%}"
    "{%- if block['type'] == 'text' -%}{%- set chat.text = chat.text + block['text'] -%}"
    "{%- elif role == 'user' and block['type'] in ['image', 'video'] -%}"
    "{%- set is_end = loop.last or loop.nextitem['type'] == 'text' -%}"
    "{%- set chat.text = chat.text + '<' + block['type'] + '>' + ('\\n' if is_end else '') -%}"
    "{%- set chat.media = chat.media + 1 -%}"
    "{%- else -%}"
    "{{ raise_exception('A ' + role + ' message cannot hold ' + block['type'] + '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
)
_ANSWER = "{%- generation -%}{{ ' ' + chat.text + eos_token }}{%- endgeneration -%}"
_OTHER_ROLES = (
    "{%- elif role == 'user' -%}{{ 'USER: ' + chat.text + ' ' }}"
    "{%- elif chat.text -%}{{ chat.text + ' ' }}"
    "{%- endif -%}"
)

CHAT_TEMPLATE = (
    "{%- set chat = namespace(text='', media=0) -%}"
    "{%- for message in messages -%}"
    + _CHECK_ROLE
    + _BLOCKS_TO_TEXT
    + "{%- if role == 'assistant' -%}"
    + "{{ 'ASSISTANT:' }}"
    + _ANSWER
    + _OTHER_ROLES
    + "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)

# The same template with query tokens after "ASSISTANT:", if the conversation has media. The variable `query_placement`
# says before which answers query tokens are written. "last": before the last answer only, which is then also the only
# answer that is trained on. "every": before each answer that comes after a medium. "none": before no answer.
QUERY_CHAT_TEMPLATE = (
    "{%- set placement = query_placement | default('last') -%}"
    "{%- set chat = namespace(text='', media=0, last=-1, media_before_last=0, media_so_far=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- set chat.last = loop.index0 -%}{%- set chat.media_before_last = chat.media_so_far -%}"
    "{%- elif message['content'] is not string -%}"
    "{%- set chat.media_so_far = chat.media_so_far "
    "+ (message['content'] | rejectattr('type', 'equalto', 'text') | list | length) -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{%- set chat.last = -1 -%}{%- set chat.media_before_last = chat.media_so_far -%}"
    "{%- endif -%}"
    "{%- set one_answer = placement == 'last' and chat.media_before_last > 0 -%}"
    "{%- for message in messages -%}" + _CHECK_ROLE + _BLOCKS_TO_TEXT + "{%- if role == 'assistant' -%}"
    "{%- set is_last = loop.index0 == chat.last -%}"
    "{{ 'ASSISTANT:' }}"
    "{%- if (placement == 'every' and chat.media > 0) or (one_answer and is_last) -%}{{ QUERY }}{%- endif -%}"
    "{%- if is_last or not one_answer -%}"
    + _ANSWER
    + "{%- else -%}{{ ' ' + chat.text + eos_token }}{%- endif -%}"
    + _OTHER_ROLES
    + "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ 'ASSISTANT:' }}{%- if one_answer or (placement == 'every' and chat.media > 0) -%}{{ QUERY }}{%- endif -%}"
    "{%- endif -%}"
)


def query_chat_template(query_token: str) -> str:
    """The template that writes `query_token` once at each position where a block of query tokens belongs.

    Its variable `query_placement` may be `"last"` (the default), `"every"` or `"none"`.
    """
    quoted = query_token.replace("\\", "\\\\").replace("'", "\\'")
    return QUERY_CHAT_TEMPLATE.replace("QUERY", f"'{quoted}'")


__all__ = ["CHAT_TEMPLATE", "query_chat_template"]
