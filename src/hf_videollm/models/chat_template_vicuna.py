r"""Chat templates in the layout of conversations that Vicuna was trained on, for designs whose papers show no prompt.

"USER: <video>\nquestion ASSISTANT: answer</s>". The rest is a decision: no system message unless the conversation has
one, media where they stand among the text, a line break behind each run of them, nothing between the frames of a
video. The generation tags mark what a model is trained on; an answer begins with the blank behind "ASSISTANT:".
"""

_CHECK_ROLE = (
    "{%- set role = message['role'] -%}"
    "{%- if role not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + role + '.') }}"
    "{%- endif -%}"
)
# Blocks of a message -> `chat.text`; media are counted on the way.
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

# The same with a place for query tokens behind "ASSISTANT:", in conversations that hold media. `query_placement` says
# before which answers: "last" before the last one, which then is the only one to be learned, "every" before each one
# that has media before it, "none" before no answer.
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
    """The template that writes `query_token` once where a block of query tokens belongs.

    Its variable `query_placement` is `"last"` (also if it is not given), `"every"` or `"none"`.
    """
    quoted = query_token.replace("\\", "\\\\").replace("'", "\\'")
    return QUERY_CHAT_TEMPLATE.replace("QUERY", f"'{quoted}'")


__all__ = ["CHAT_TEMPLATE", "query_chat_template"]
