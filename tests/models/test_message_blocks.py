"""Messages of every usual form are read whole: what cannot be read is refused by its name, and nothing is changed."""

import base64
import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from ways_in import BUNDLED, QUESTION, TENSORS, ask, chat_inputs, is_same, pipeline_of, processor_of

from hf_videollm import UnsafeURL
from hf_videollm.models.video_llm_messages import BlockRules, read_chats, take_video_options
from hf_videollm.training.collator import VideoDataCollator

RULES = BlockRules({"video": ("start", "end", "num_frames", "fps"), "audio": ("start",)}, {"size", "allowed_hosts"})
designs = pytest.mark.parametrize("design", BUNDLED)
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}


def read(*blocks: Any) -> list[dict[str, Any]]:
    return read_chats([{"role": "user", "content": list(blocks)}], RULES)[0][0][0]["content"]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return str(path)


def data_url(path: str, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ({"type": "image_url", "image_url": "a.png"}, {"type": "image", "url": "a.png"}),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "auto"}}, {"type": "image", "url": "a.png"}),
        ({"type": "video_url", "video_url": {"url": "a.mp4"}}, {"type": "video", "url": "a.mp4"}),
        (
            {"type": "video_url", "video_url": {"url": "a.mp4"}, "video_start": 1.0, "nframes": 2},
            {"type": "video", "url": "a.mp4", "start": 1.0, "num_frames": 2},
        ),
        ({"type": "audio_url", "audio_url": {"url": "a.wav"}}, {"type": "audio", "url": "a.wav"}),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
            {"type": "audio", "audio": "data:audio/mp3;base64,AAAA"},
        ),
        ({"type": "image", "base64": "AAAA"}, {"type": "image", "image": "data:image/png;base64,AAAA"}),
        # Arrow tables have every key in every block.
        ({"type": "video", "path": "a.mp4", "text": None, "url": None}, {"type": "video", "path": "a.mp4"}),
    ],
)
def test_blocks_of_other_forms_become_ours(foreign: dict[str, Any], ours: dict[str, Any]) -> None:
    before = copy.deepcopy(foreign)
    assert read(foreign) == [ours]
    assert read(ours) == [ours]
    assert foreign == before


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "vidoe", "path": "a.mp4"}, r"'vidoe': did you mean video"),
        ({"path": "a.mp4"}, "block 0 has no type"),
        ({"type": "video", "pth": "a.mp4"}, r"'pth': did you mean path"),
        ({"type": "video", "path": "a.mp4", "num_frame": 3}, r"'num_frame': did you mean num_frames"),
        ({"type": "video", "path": "a.mp4", "video_strat": 3}, r"'video_strat': did you mean video_start"),
        ({"type": "video", "path": "a.mp4", "size": 3}, "size applies to a whole call"),
        ({"type": "video", "path": "a.mp4", "allowed_hosts": ["x"]}, "allowed_hosts applies to a whole call"),
        ({"type": "video", "path": "a.mp4", "text": "What?"}, "no option 'text'"),
        ({"type": "video", "path": "a.mp4", "url": "b.mp4"}, "names its video twice, by url and by path"),
        ({"type": "video", "video": []}, "video is empty"),
        ({"type": "image", "path": "a.png", "start": 1.0}, "image block has no option 'start'"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}, "detail='high' is not supported"),
        ({"type": "image_url", "image_url": {"uri": "a.png"}}, r"'uri' in image_url: did you mean url"),
        ({"type": "image_url", "image_url": {}}, "needs image_url"),
        ({"type": "image_url", "url": "a.png"}, "needs image_url"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "needs input_audio"),
        ({"type": "text", "txt": "Hi"}, r"'txt': did you mean text"),
        ({"type": "text", "text": 3}, "without a string as its text"),
        ("What?", "block 0 is a str"),
    ],
)
def test_blocks_that_would_be_read_in_part_are_refused(block: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(block)


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ([], "conversation is empty"),
        ([[]], "conversation 0, there are no messages"),
        ((), "conversation is empty"),
        ("Hi", r"conversation is a string.*\[{'role'"),
        ("", "conversation is a string"),
        ({"role": "user", "content": "Hi"}, r"conversation is one message.*\[message\]"),
        ({}, "conversation is one message"),
        (None, "conversation is a NoneType"),
        (3, "conversation is a int"),
        ([[{"role": "user", "content": "Hi"}], {"role": "user", "content": "Hi"}], "Conversation 1 is one message"),
        ([[{"role": "user", "content": "Hi"}], "Hi"], "Conversation 1 is a string"),
        ([{"role": "usre", "content": "Hi"}], r"'usre': did you mean user"),
        ([{"content": "Hi"}], "has no role"),
        ([{"role": "user"}], "has no content"),
        ([{"role": "user", "content": []}], "has no content"),
        ([{"role": "user", "content": None}], "has no content"),
        ([{"role": "user", "contents": "Hi"}], r"'contents': did you mean content"),
        ([{"role": "user", "content": "Hi"}, "Hi"], "message 1 is a str"),
        (
            [[{"role": "user", "content": "Hi"}], [{"role": "user", "content": [3]}]],
            "conversation 1, message 0, block 0",
        ),
    ],
)
def test_messages_that_would_be_read_in_part_are_refused(chat: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_chats(chat, RULES)


def test_what_a_chat_template_knows_is_known() -> None:
    """Control of the refusals above: roles, keys and types of other language models go through."""
    template = (
        "{% for message in messages %}{% if message['role'] == 'critic' %}{{ message.mood }}{% endif %}{% endfor %}"
    )
    chat = [{"role": "critic", "content": "Hi", "mood": "good"}, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    assert read_chats(chat, BlockRules({}, template=template))[0] == [chat]
    with pytest.raises(ValueError, match="mood"):
        read_chats(chat, RULES)


def test_options_of_videos_come_out_in_reading_order() -> None:
    videos = [{"type": "video", "path": "a.mp4", "start": 1.0}, {"type": "video", "path": "b.mp4"}]
    chats, _ = read_chats([ask(videos[0]), [*ask(videos[1]), ANSWER, *ask(videos[0])]], RULES)
    bare, options = take_video_options(chats, RULES.options["video"])
    assert options == [{"start": 1.0}, {}, {"start": 1.0}]
    assert "start" not in str(bare)
    assert take_video_options([ask(videos[1])], RULES.options["video"])[1] is None


@designs
def test_media_of_openai_form_are_seen_as_ours(design: str, clips: list[str], picture: str) -> None:
    video, image = {"type": "video", "path": clips[0]}, {"type": "image", "path": picture}
    seen = {name: chat_inputs(design, block) for name, block in (("video", video), ("image", image))}
    for url in (clips[0], f"file://{clips[0]}", data_url(clips[0], "video/mp4")):
        for block in ({"type": "video_url", "video_url": url}, {"type": "video_url", "video_url": {"url": url}}):
            assert is_same(chat_inputs(design, block), seen["video"])
    for url in (picture, f"file://{picture}", data_url(picture, "image/png")):
        for block in ({"type": "image_url", "image_url": url}, {"type": "image_url", "image_url": {"url": url}}):
            assert is_same(chat_inputs(design, block), seen["image"])
    text = base64.b64encode(Path(picture).read_bytes()).decode()
    assert is_same(chat_inputs(design, {"type": "image", "base64": text}), seen["image"])
    rows = [pipeline_of(design).preprocess({"messages": ask(block)})["row"] for block in (video, image)]
    foreign = ({"type": "video_url", "video_url": {"url": clips[0]}}, {"type": "image_url", "image_url": picture})
    for block, row in zip(foreign, rows, strict=True):
        assert is_same(pipeline_of(design).preprocess({"messages": ask(block)})["row"], row)
    collate = VideoDataCollator(processor_of(design))
    one, other = (collate([{"id": "a", "messages": [*ask(block), ANSWER]}]) for block in (video, foreign[0]))
    assert is_same(one, other)
    assert not is_same(seen["video"], chat_inputs(design, {"type": "video_url", "video_url": clips[1]}))


def test_sounds_of_openai_form_are_heard_as_ours(clips: list[str]) -> None:
    expected = chat_inputs("videollama2_av", {"type": "audio", "path": clips[0]})
    data = data_url(clips[0], "audio/mp4")
    for block in (
        {"type": "input_audio", "input_audio": {"data": data.partition(",")[2], "format": "mp4"}},
        {"type": "input_audio", "input_audio": {"data": data}},
        {"type": "audio_url", "audio_url": {"url": clips[0]}},
        {"type": "audio", "url": data},
    ):
        assert is_same(chat_inputs("videollama2_av", block), expected)
    assert not is_same(chat_inputs("videollama2_av", {"type": "audio_url", "audio_url": clips[1]}), expected)


@designs
@pytest.mark.parametrize("kind", ["video", "image", "audio"])
def test_addresses_in_messages_are_refused_unless_the_call_allows_them(design: str, kind: str) -> None:
    url = f"https://media.example/{kind}"
    hears = design == "videollama2_av" or kind != "audio"
    for block in ({"type": kind, "url": url}, {"type": f"{kind}_url", f"{kind}_url": {"url": url}}):
        for read_block in (
            lambda block: chat_inputs(design, block),
            lambda block: pipeline_of(design).preprocess({"messages": ask(block)}),
            lambda block: VideoDataCollator(processor_of(design))([{"id": "a", "messages": [*ask(block), ANSWER]}]),
            # One host as a string is one host, and no list of letters.
            lambda block: chat_inputs(design, block, allowed_hosts="example"),
            lambda block: chat_inputs(design, block, allowed_hosts="a media.example b"),
        ):
            with pytest.raises(UnsafeURL if hears else ValueError, match=r"media\.example" if hears else "cannot hear"):
                read_block(block)


@pytest.mark.parametrize("hosts", ["media.invalid", ["media.invalid"], ("media.invalid",)])
def test_one_host_may_be_a_string(hosts: Any) -> None:
    """It is let through to the look-up of its name, which fails without a network."""
    with pytest.raises(ValueError, match=r"media\.invalid") as error:
        chat_inputs("pllava", {"type": "video", "url": "https://media.invalid/a.mp4"}, allowed_hosts=hosts)
    assert "not allowed" not in str(error.value)


@designs
def test_blocks_that_name_nothing_are_refused_where_media_are_read(design: str) -> None:
    for block in ({"type": "video"}, {"type": "image"}, {"type": "video", "path": None}):
        with pytest.raises(ValueError, match=f"{block['type']} names no {block['type']}"):
            processor_of(design).apply_chat_template(ask(block), **TENSORS)
    shown = processor_of(design).apply_chat_template(ask({"type": "video"}))
    assert processor_of(design).video_token in shown


@designs
def test_empty_lists_and_none_are_refused(design: str, clips: list[str]) -> None:
    processor, pipe = processor_of(design), pipeline_of(design)
    token = processor.video_token
    for name in ("videos", "images"):
        with pytest.raises(ValueError, match=f"{name} is an empty list"):
            processor(text="Hi", **{name: []})
        for text, empty in (("Hi", [[]]), (["Hi"], [[]]), ("Hi", [[], []])):
            with pytest.raises(ValueError, match=f"{name} holds an empty list"):
                processor(text=text, **{name: empty})
        for empty in ([[]], [[], []]):
            with pytest.raises(ValueError, match=f"{name} holds an empty list"):
                pipe(text="Hi", **{name: empty})
        for sample in ({name: []}, {name: [], "text": "Hi"}, {name: [[], []], "text": ["a", "b"]}):
            text = sample.pop("text", "Hi")
            with pytest.raises(ValueError, match=f"{name} (is|holds) an empty list"):
                pipe(text=text, **sample)
        with pytest.raises(ValueError, match=f"{name} is an empty list"):
            pipe({name: [], "text": "Hi"})
        with pytest.raises(ValueError, match=rf"{name}\[0\] is None"):
            pipe({name: [None, clips[0]], "text": "Hi"})
    for videos in ([clips[0], None], [None, clips[0]], [[clips[0], None]]):
        with pytest.raises(ValueError, match="None"):
            processor(text=f"{token} Hi", videos=videos)
        with pytest.raises(ValueError, match="None"):
            pipe(videos, text="Hi")
    for wrong in ({"text": []}, {"text": [None]}, {"text": 3}, {"text": {"text": "a"}}):
        with pytest.raises((TypeError, ValueError)):
            pipe(clips[0], **wrong)
    with pytest.raises(ValueError, match="needs a text"):
        pipe(clips[0])
    with pytest.raises(ValueError, match="has no content"):
        pipe([{"role": "user", "content": []}])


def test_none_may_stand_for_a_prompt_without_videos(clips: list[str]) -> None:
    """Control: what says that a prompt has none is heeded, and goes to the right prompt."""
    processor = processor_of("pllava")
    text = ["<video> a", "b"]
    nested = processor(text=text, videos=[[clips[0]], []], padding=True, return_tensors="pt")
    assert is_same(processor(text=text, videos=[clips[0], None], padding=True, return_tensors="pt"), nested)
    with pytest.raises(ValueError, match="Prompt 0"):
        processor(text=text, videos=[None, clips[0]])


def test_samples_with_what_would_be_passed_over_are_refused(clips: list[str]) -> None:
    pipe = pipeline_of("pllava")
    for sample, words in (
        ({"video": clips[0], "text": "a", "start": 1.0}, "'start'"),
        ({"video": clips[0], "text": "a", "nframes": 2}, "'nframes'"),
        ({"vidoe": clips[0], "text": "a"}, r"'vidoe': did you mean video"),
        ({"video": clips[0], "text": "a", "prompt": "b"}, "'prompt'"),
        ({"video": clips[0], "videos": [clips[1]], "text": "a"}, "'videos' and 'video'"),
        ({"text": "a", "question": "b"}, "'text' and 'question'"),
        ({"messages": ask({"type": "video", "path": clips[0]}), "videos": [clips[0]]}, "leave out the videos"),
    ):
        for given in (sample, [sample], iter([sample])):
            if words == "'prompt'" and not isinstance(given, dict | list):
                continue  # a stream may have columns that are no input
            with pytest.raises(ValueError, match=words):
                list(pipe(given, max_new_tokens=1))
    rows = datasets.Dataset.from_list([{"video": clips[0], "text": "What?", "kind": "x", "source_file": "y"}])
    assert len(list(pipe(rows, max_new_tokens=1))) == 1
    with pytest.raises(ValueError, match="'fps'"):
        list(pipe(rows.add_column("fps", [30.0]), max_new_tokens=1))


def test_the_collator_reads_rows_whole(clips: list[str]) -> None:
    collate = VideoDataCollator(processor_of("pllava"))
    messages = [*ask({"type": "video", "path": clips[0]}), ANSWER]
    with pytest.raises(ValueError, match="'a' has media of type video twice"):
        collate([{"id": "a", "messages": messages, "videos": [clips[0]]}])
    with pytest.raises(ValueError, match="'a' has id, prompt: give messages, or prompt and completion"):
        collate([{"id": "a", "prompt": messages}])
    with pytest.raises(ValueError, match=r"id 'a': message 0, block 0|id 'a'.*strat"):
        collate([{"id": "a", "messages": [*ask({"type": "video", "path": clips[0], "strat": 1.0}), ANSWER]}])
    cached = VideoDataCollator(processor_of("pllava"), frames={clips[0]: None})  # type: ignore[dict-item]
    with pytest.raises(
        ValueError, match="start in a message cannot be used with frames or sounds that are given by path"
    ):
        cached([{"id": "a", "messages": [*ask({"type": "video", "path": clips[0], "start": 1.0}), ANSWER]}])


def test_the_messages_of_the_user_stay_as_they_are(clips: list[str]) -> None:
    for design in BUNDLED:
        chat = ask(
            {"type": "video_url", "video_url": {"url": clips[0]}, "video_start": 1.0, "fps": None}, question=QUESTION
        )
        before = copy.deepcopy(chat)
        options = {"num_frames": 3}
        processor_of(design).apply_chat_template(chat, processor_kwargs=options, **TENSORS)
        shown = pipeline_of(design)(chat, max_new_tokens=1)[0]["input_text"]
        assert chat == before
        assert options == {"num_frames": 3}
        assert shown[0]["content"][0]["video_url"] == {"url": clips[0]}


@pytest.mark.parametrize("kind", ["video", "image", "audio"])
def test_nothing_beside_the_name_of_a_file_is_passed_over(kind: str, clips: list[str], picture: str) -> None:
    design = "videollama2_av"
    pipe, path = pipeline_of(design), picture if kind == "image" else clips[0]
    content = Path(path).read_bytes()
    expected = chat_inputs(design, {"type": kind, "path": path})
    for stored in ({"path": path}, {"bytes": content}, {"bytes": content, "path": None, "start": None}):
        sample = {"audio" if kind == "audio" else f"{kind}s": stored, "text": QUESTION["text"]}
        for ours in (
            chat_inputs(design, {"type": kind, kind: stored}),
            pipe.preprocess({"messages": ask({"type": kind, kind: stored})})["row"],
            pipe.preprocess(sample)["row"],
        ):
            assert ours.keys() >= {"input_ids"}
            assert any(name.startswith(("pixel_values", "input_features")) for name in ours)
        assert is_same(chat_inputs(design, {"type": kind, kind: stored}), expected)
    for stored, words in (
        ({"path": path, "start": 1}, "'start'"),
        ({"bytes": content, "path": "a", "num_frames": 2}, "'num_frames'"),
        ({"bytes": None}, "Cannot read"),
        ({"bytes": None, "path": None}, "Cannot read"),
    ):
        sample = {"audio" if kind == "audio" else f"{kind}s": stored, "text": QUESTION["text"]}
        for way in (
            lambda stored, _: chat_inputs(design, {"type": kind, kind: stored}),
            lambda stored, _: pipe.preprocess({"messages": ask({"type": kind, kind: stored})}),
            lambda _, sample: pipe.preprocess(sample),
        ):
            with pytest.raises((TypeError, ValueError), match=words):
                way(stored, sample)
    if kind == "audio":
        with pytest.raises((TypeError, ValueError), match="'start'"):
            chat_inputs(design, {"type": kind, kind: {"array": [0.0] * 16000, "sampling_rate": 16000, "start": 1}})


def test_rows_without_media_are_not_answered_blind(clips: list[str]) -> None:
    pipe = pipeline_of("pllava")
    for name in ("video_path", "Clip", "image_file", "audio_name", "all_videos_of_it"):
        rows = datasets.Dataset.from_list([{name: clips[0], "question": "What?"}])
        with pytest.raises(ValueError, match=f"{name}.*videos, video, images, image, audio"):
            list(pipe(rows, max_new_tokens=1))
    for row in (
        {"video_path": None, "clip": "", "question": "What?", "source": "x"},
        {"video": clips[0], "clip_name": "x", "question": "What?"},
    ):
        assert len(list(pipe(iter([row]), max_new_tokens=1))) == 1  # control
