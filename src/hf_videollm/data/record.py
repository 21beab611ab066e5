"""The canonical record: one shape for all training data, as `datasets.Features`, and its validator.

The messages are what chat templates of transformers expect. What a metric or a statistic needs stands beside them, so a
record for evaluation needs no answer in its messages, and one for training ends with it:

    {"id": "videoinstruct/train/0", "source": "videoinstruct", "split": "train", "task": "instruct",
     "messages": [{"role": "user", "content": [{"type": "video", "path": "v_1.mp4", "start": 3.0, "end": 9.5},
                                               {"type": "text", "text": "What happens?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "A dog barks."}]}],
     "options": [], "answer": None, "answer_index": -1, "references": [], "meta": "{}"}

Arrow gives every block the keys of all blocks, with None for those that it does not have. So does `check_record`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..models.video_llm_option_names import did_you_mean
from .records import RecordError

__all__ = [
    "BLOCK_KEYS",
    "MEDIA",
    "RECORD_KEYS",
    "TASKS",
    "Record",
    "RecordError",
    "check_record",
    "media_of",
    "meta_of",
    "record_features",
]

# A canonical record; `record_features` says what it holds.
Record: TypeAlias = dict[str, Any]

TASKS = ("caption", "classification", "open_qa", "mc_qa", "instruct", "dialog", "grounding", "text")
ROLES = ("system", "user", "assistant")
MEDIA = ("image", "video", "audio")
TYPES = ("text", *MEDIA)
# How a video is stored: a file, a folder of frames, an animated GIF, or a folder of pictures without times.
KINDS = ("file", "frames", "gif", "images")
RECORD_KEYS = (
    *("id", "source", "split", "task", "messages"),
    *("options", "answer", "answer_index", "references", "meta"),
)
BLOCK_KEYS = ("type", "text", "path", "root", "kind", "start", "end", "fps", "first", "use_audio")
# The keys that a block of each type may have, beside its type.
KEYS_OF = {
    "text": ("text",),
    "image": ("path", "root"),
    "audio": ("path", "root", "start", "end"),
    "video": ("path", "root", "kind", "start", "end", "fps", "first", "use_audio"),
}
# What data sets write into a question in the place of a medium.
MEDIA_TOKENS = ("<image>", "<video>", "<audio>")


def record_features() -> Any:
    """The shape of a record as `datasets.Features`.

    Of a block of a medium, `path` is relative to the folder that `root` names; with `root=None` it stands alone.
    `start` and `end` are seconds. `fps` and `first` belong to folders of frames: frames per second, and the number of
    the first file. `use_audio` says whether the sound of a video is heard. `answer_index` is -1 without options, and
    `meta` is an object in JSON.

    Example:
        >>> "messages" in record_features()
        True
    """
    from datasets import Features, List, Value

    kinds = {
        **dict.fromkeys(("type", "text", "path", "root", "kind"), "string"),
        **dict.fromkeys(("start", "end", "fps"), "float64"),
        "first": "int32",
        "use_audio": "bool",
    }
    block = {name: Value(kinds[name]) for name in BLOCK_KEYS}
    return Features(
        {
            **{name: Value("string") for name in ("id", "source", "split", "task")},
            "messages": List({"role": Value("string"), "content": List(block)}),
            "options": List(Value("string")),
            "answer": Value("string"),
            "answer_index": Value("int32"),
            "references": List(Value("string")),
            "meta": Value("string"),
        }
    )


def check_record(row: Any, where: str = "record", *, training: bool = True) -> Record:
    """Check a record, and give it all its keys.

    Args:
        row: the record: a mapping, e.g. a row of a dataset. `id` and `messages` are needed; `meta` may be a mapping,
            and the content of a message a string.
        where: file and row, for errors.
        training: whether it must end with an answer.

    Raises:
        RecordError: something is missing, unknown or contradicts something else; the message begins with `where` and
            names the field.

    Example:
        >>> turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
        >>> check_record({"id": "1", "task": "text", "messages": turns})["answer_index"]
        -1
    """
    if not isinstance(row, Mapping):
        raise RecordError(f"{where}: a record must be an object, not a {type(row).__name__}.")
    for name in row:
        if name not in RECORD_KEYS:
            raise RecordError(
                f"{where}: a record has no field {name!r}: {did_you_mean(name, RECORD_KEYS)} More facts belong in meta."
            )
    given = {name: value for name, value in row.items() if value is not None}
    record = {
        "id": _text(given, "id", where),
        "source": _text(given, "source", where, ""),
        "split": _text(given, "split", where, "train"),
        "task": _one_of(given.get("task", "instruct"), TASKS, f"{where}: task"),
        "messages": [],
        "options": _texts(given, "options", where),
        "answer": _text(given, "answer", where, None),
        "answer_index": given.get("answer_index", -1),
        "references": _texts(given, "references", where),
        "meta": _meta(given.get("meta"), where),
    }
    record["messages"] = _messages(given.get("messages"), where, is_presampled=bool(meta_of(record).get("presampled")))
    _check_answer(record, where)
    if training and record["messages"][-1]["role"] != "assistant":
        raise RecordError(f"{where}: messages has no answer at its end, so there is nothing to learn: add one.")
    return record


def meta_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of `meta` as a dict."""
    meta: dict[str, Any] = json.loads(record["meta"])
    return meta


def media_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The blocks of all media of a record, in reading order."""
    return [block for message in record["messages"] for block in message["content"] if block["type"] != "text"]


def _text(row: Mapping[str, Any], name: str, where: str, default: Any = ...) -> Any:
    value = row.get(name, default)
    if value is default and default is not ...:
        return value
    if not isinstance(value, str) or not value.strip():
        found = "missing" if value is ... else repr(value)
        raise RecordError(f"{where}: {name} must be a text that is not blank, not {found}.")
    return value


def _texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    values = row.get(name, [])
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) and value.strip() for value in values):
        raise RecordError(f"{where}: {name} must be a list of texts that are not blank, not {values!r}.")
    return list(values)


def _one_of(value: Any, known: Sequence[str], what: str) -> str:
    if value not in known:
        raise RecordError(f"{what} is {value!r}, which is none of {', '.join(known)}: {did_you_mean(value, known)}")
    return str(value)


def _meta(value: Any, where: str) -> str:
    """The facts as JSON, the same text for the same facts."""
    try:
        facts = json.loads(value) if isinstance(value, str) else ({} if value is None else dict(value))
        if not isinstance(facts, dict):
            raise ValueError("it is no object")
        return json.dumps(facts, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{where}: meta must be an object that JSON can hold: {error}.") from None


def _messages(messages: Any, where: str, *, is_presampled: bool) -> list[dict[str, Any]]:
    if not isinstance(messages, list | tuple) or not messages:
        raise RecordError(f"{where}: messages must be a list of turns that is not empty.")
    checked = []
    for position, message in enumerate(messages):
        place = f"{where}, messages[{position}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise RecordError(f"{place}: a turn must have exactly the fields role and content.")
        role = _one_of(message["role"], ROLES, f"{place}: role")
        checked.append({"role": role, "content": _content(message["content"], role, place, is_presampled)})
    roles = [str(message["role"]) for message in checked]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or turns != [("user", "assistant")[number % 2] for number in range(len(turns))]:
        raise RecordError(
            f"{where}: messages has the roles {', '.join(roles)}; they must be user and assistant in turns, beginning "
            "with user, behind a system turn if there is one."
        )
    return checked


def _content(content: Any, role: str, where: str, is_presampled: bool) -> list[dict[str, Any]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple) or not content:
        raise RecordError(f"{where}: content must be a text, or a list of blocks that is not empty.")
    blocks: list[dict[str, Any]] = []
    for number, block in enumerate(content):
        place = f"{where}, content[{number}]"
        follows_video = bool(blocks) and blocks[-1]["type"] == "video"
        blocks.append(_block(block, role, place, is_presampled, follows_video))
    return blocks


def _block(block: Any, role: str, where: str, is_presampled: bool, follows_video: bool) -> dict[str, Any]:
    if not isinstance(block, Mapping):
        raise RecordError(f"{where}: a block must be an object, not a {type(block).__name__}.")
    given = {name: value for name, value in block.items() if value is not None}
    kind = _one_of(given.get("type"), TYPES, f"{where}: type")
    for name in given:
        if name != "type" and name not in KEYS_OF[kind]:
            raise RecordError(f"{where}: a {kind} block has no field {name!r}: {did_you_mean(name, KEYS_OF[kind])}")
    if kind == "text":
        _check_text(_text(given, "text", where), where)
    elif role != "user":
        raise RecordError(f"{where}: a {kind} may stand in a turn of the user only, not of the {role}.")
    elif kind == "audio" and follows_video and "path" not in given:
        # An audio block without a path means the sound of the video before it.
        _check_part(given, where)
    else:
        _check_medium(given, where, is_presampled)
    return {name: given.get(name) for name in BLOCK_KEYS}


def _check_text(text: str, where: str) -> None:
    if token := next((token for token in MEDIA_TOKENS if token in text), None):
        raise RecordError(f"{where}: text holds {token}, which a model would read as letters: make it a block.")


def _check_medium(block: dict[str, Any], where: str, is_presampled: bool) -> None:
    _text(block, "path", where)
    _text(block, "root", where, None)
    _check_part(block, where)
    if block["type"] != "video":
        return
    stored = _one_of(block.setdefault("kind", "file"), KINDS, f"{where}: kind")
    if "fps" in block:
        block["fps"] = _number(block["fps"], f"{where}: fps")
        if block["fps"] == 0:
            raise RecordError(f"{where}: fps is 0: give the frames per second, or leave it out.")
    if "first" in block and (isinstance(block["first"], bool) or not isinstance(block["first"], int)):
        raise RecordError(f"{where}: first must be the number of the first frame file, not {block['first']!r}.")
    if block.get("first", 0) < 0:
        raise RecordError(f"{where}: first is {block['first']}: give the number of the first frame file, 0 or more.")
    if stored == "file" and ("fps" in block or "first" in block):
        raise RecordError(f"{where}: fps and first belong to folders of frames (kind frames), not to a file.")
    if stored == "frames" and not is_presampled and ("fps" not in block or "first" not in block):
        raise RecordError(
            f"{where}: a folder of frames needs fps and first, or presampled in meta if its frames are all to be seen."
        )
    if stored in ("frames", "images") and "fps" not in block and ("start" in block or "end" in block):
        raise RecordError(f"{where}: start and end choose pictures of a folder by its fps, which is missing.")
    if "use_audio" in block and not isinstance(block["use_audio"], bool):
        raise RecordError(f"{where}: use_audio must be true or false, not {block['use_audio']!r}.")


def _check_part(block: dict[str, Any], where: str) -> None:
    """Check `start` and `end`, and make them floats."""
    for name in ("start", "end"):
        if name in block:
            block[name] = _number(block[name], f"{where}: {name}")
    if "end" in block and block["end"] <= block.get("start", 0.0):
        start = block.get("start", 0.0)
        raise RecordError(f"{where}: end {block['end']:g} is not behind start {start:g}: correct them.")


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise RecordError(f"{what} must be a number, 0 or more, not {value!r}.")
    return float(value)


def _check_answer(record: Record, where: str) -> None:
    index, answer, options = record["answer_index"], record["answer"], record["options"]
    if isinstance(index, bool) or not isinstance(index, int) or not -1 <= index < max(len(options), 1):
        raise RecordError(
            f"{where}: answer_index is {index!r}, which is none of the {len(options)} options, and not -1."
        )
    if index >= 0 and (not options or options[index] != answer):
        raise RecordError(f"{where}: answer is {answer!r}, but answer_index says option {index} of {options}.")
    if record["references"] and record["references"][0] != answer:
        raise RecordError(f"{where}: the first of references must be the answer {answer!r}.")
