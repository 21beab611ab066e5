"""The collator: what is learned is exactly the assistant's words, and nothing is lost silently."""

import pytest
import torch
from PIL import Image

from hf_videollm.data.records import make_record
from hf_videollm.models.errors import MediaError
from hf_videollm.models.media_video import load_video
from hf_videollm.models.video_llm_chat_template import TAG
from hf_videollm.synthetic.clips import make_scene, write_scene_mp4
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.caches.frames import FrameCache, StillFrames
from hf_videollm.training.collator import IGNORE_INDEX, VideoDataCollator

SMALL = {"num_frames": 4, "image_size": 32, "patch_size": 8, "pooling_shape": (2, 2, 2)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_scene_mp4(make_scene(seed), folder / f"{seed}.mp4")) for seed in range(3)]


@pytest.fixture(scope="module")
def processor():
    return build_tiny_pllava(**SMALL)[1]


def row(video, *turns):
    return make_record("r", video, turns or [("What colour is the shape?", "red")]).to_dict()


def learned_words(processor, batch, position=0):
    labels = batch["labels"][position]
    return processor.tokenizer.convert_ids_to_tokens(labels[labels != IGNORE_INDEX].tolist())


def test_labels_are_the_answers_with_their_end(processor, clips):
    rows = [
        row(clips[0]),
        row(clips[1], ("Which came first, the red circle or the blue square?", "blue square"), ("How many?", "2")),
    ]
    batch = VideoDataCollator(processor)(rows)
    assert learned_words(processor, batch, 0) == ["red", "</s>"]
    assert learned_words(processor, batch, 1) == ["blue", "square", "</s>", "2", "</s>"]
    kept = batch["labels"] != IGNORE_INDEX
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])
    # Never the prompt, a placeholder or padding.
    assert not (kept & (batch["input_ids"] == processor.video_token_id)).any()
    assert not (kept & (batch["attention_mask"] == 0)).any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_does_not_matter(processor, clips, side):
    rows = [row(clips[0]), row(clips[1], ("How many shapes are there?", "2"), ("What shape is shown?", "red ring"))]
    collator = VideoDataCollator(processor, processor_kwargs={"padding_side": side})
    batch = collator(rows)
    assert batch["attention_mask"][0, 0 if side == "left" else -1] == 0
    assert learned_words(processor, batch, 0) == ["red", "</s>"]
    alone = collator(rows[:1])
    real = batch["attention_mask"][0].bool()
    assert torch.equal(batch["labels"][0][real], alone["labels"][0])


def test_every_placeholder_survives(processor, clips):
    batch = VideoDataCollator(processor)([row(clips[0]), row(clips[1])])
    assert (batch["input_ids"] == processor.video_token_id).sum(-1).tolist() == [8, 8]
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 32, 32)
    assert batch["num_video_frames"].tolist() == [4, 4]


def test_the_loss_of_the_model_uses_only_these_labels(clips):
    model, processor = build_tiny_pllava(**SMALL)
    batch = VideoDataCollator(processor)([row(clips[0]), row(clips[1], ("How many?", "2"), ("What shape?", "ring"))])
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:])
    torch.testing.assert_close(model(**batch).loss, expected)


def test_rows_are_not_changed_and_arrow_nones_do_not_hurt(processor, clips):
    sample = row(clips[0])
    for message in sample["messages"]:
        for block in message["content"]:
            block.setdefault("text", None)
            block.setdefault("path", None)
    before = repr(sample)
    batch = VideoDataCollator(processor)([sample])
    assert repr(sample) == before
    assert torch.equal(batch["labels"], VideoDataCollator(processor)([row(clips[0])])["labels"])


def test_text_only_rows(processor):
    plain = {
        "id": "t",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "How many beeps?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "2"}]},
        ],
    }
    batch = VideoDataCollator(processor)([plain])
    assert "pixel_values_videos" not in batch
    assert learned_words(processor, batch) == ["2", "</s>"]


def test_cached_frames_give_the_same_batch(processor, clips, tmp_path):
    cache = FrameCache.build(clips, processor.video_processor, tmp_path, progress=False)
    rows = [row(clip) for clip in clips]
    decoded, cached = VideoDataCollator(processor)(rows), VideoDataCollator(processor, frames=cache)(rows)
    assert decoded.keys() == cached.keys()
    for name, value in decoded.items():
        torch.testing.assert_close(cached[name], value, msg=name)


def test_cache_is_reused_and_notices_changes(processor, clips, tmp_path, monkeypatch):
    decoded = []

    def load(source, **options):
        decoded.append(source)
        return load_video(source, **options)

    monkeypatch.setattr("hf_videollm.data.media_cache.cache.load_video", load)
    first = FrameCache.build([*clips, clips[0]], processor.video_processor, tmp_path, progress=False)
    assert list(first) == clips
    assert len(first) == 3
    assert sorted(decoded) == clips
    # Fields that a processor gets when it is saved change no pixel.
    processor.save_pretrained(tmp_path.parent / "saved")
    again = FrameCache.build(clips, processor.video_processor, tmp_path, progress=False)
    assert all(torch.equal(again[clip], first[clip]) for clip in clips)
    assert sorted(decoded) == clips
    other = build_tiny_pllava(**{**SMALL, "num_frames": 2})[1]
    assert len(FrameCache.build(clips, other.video_processor, tmp_path, progress=False)[clips[0]]) == 2
    assert len(decoded) == 6
    with pytest.raises(ValueError, match="no videos"):
        FrameCache.build([], processor.video_processor, tmp_path)
    with pytest.raises(KeyError):
        first["other.mp4"]


def test_cache_knows_when_frames_were(processor, clips, tmp_path):
    cache = FrameCache.build(clips, processor.video_processor, tmp_path, progress=False)
    for clip in clips:
        _, metadata = processor.video_processor.decode(clip)
        assert len(set(metadata.timestamps)) == SMALL["num_frames"]
        assert cache.times(clip) == pytest.approx(metadata.timestamps)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40)).save(pictures / f"{number}.png")
    assert FrameCache.build([str(pictures)], processor.video_processor, tmp_path, False).times(str(pictures)) is None


def test_still_frames_are_frames_of_their_clip(processor, clips, tmp_path):
    cache = FrameCache.build(clips, processor.video_processor, tmp_path, progress=False)
    stills = StillFrames(cache, seed=1)
    assert list(stills) == list(cache)
    assert len(stills) == len(cache)
    drawn = [stills[clips[0]] for _ in range(20)]
    assert all(still.shape == (1, 3, 32, 32) for still in drawn)
    assert all(any(torch.equal(still[0], frame) for frame in cache[clips[0]]) for still in drawn)
    again = StillFrames(cache, seed=1)
    assert torch.equal(torch.cat(drawn), torch.cat([again[clips[0]] for _ in range(20)]))


def test_a_broken_file_is_named_or_left_out(processor, clips, tmp_path):
    bad = tmp_path / "broken.mp4"
    bad.write_bytes(b"no film")
    paths, found = [clips[0], str(bad)], {}
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        FrameCache.build(paths, processor.video_processor, tmp_path / "c", False)
    assert (
        list(FrameCache.build(paths, processor.video_processor, tmp_path / "c", False, found.__setitem__)) == clips[:1]
    )
    assert list(found) == [str(bad)]
    with pytest.raises(ValueError, match="None of the 1 files"):
        FrameCache.build([str(bad)], processor.video_processor, tmp_path / "c", False, found.__setitem__)


def test_row_without_answer_is_an_error(processor, clips):
    silent = row(clips[0])
    silent["messages"] = silent["messages"][:1]
    with pytest.raises(ValueError, match=r"The row with id 'r' has no answer"):
        VideoDataCollator(processor)([row(clips[0]), silent])


def test_long_rows_are_refused_not_cut(processor, clips):
    with pytest.raises(ValueError, match="never cut"):
        VideoDataCollator(processor, max_length=10)([row(clips[0])])


def test_template_without_generation_tags_is_an_error(clips):
    processor = build_tiny_pllava(**SMALL)[1]
    processor.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="generation"):
        VideoDataCollator(processor)([row(clips[0])])


@pytest.mark.parametrize("added", ["{% if add_generation_prompt %}ASSISTANT:{% endif %}", "{# generation #}", None])
def test_the_word_generation_is_no_tag(processor, clips, added):
    """Every usual template has `add_generation_prompt`; the control is the same template with its tags."""
    untagged = build_tiny_pllava(**SMALL)[1]
    tagged = untagged.chat_template
    plain = TAG.sub("", tagged)
    assert plain != tagged
    untagged.chat_template = None if added is None else plain + added
    with pytest.raises(ValueError, match="does not mark the assistant's words"):
        VideoDataCollator(untagged)([row(clips[0])])
    untagged.chat_template = tagged
    assert learned_words(untagged, VideoDataCollator(untagged)([row(clips[0])])) == ["red", "</s>"]


def test_describe_shows_what_is_learned(processor, clips):
    text = VideoDataCollator(processor).describe(row(clips[0]))
    assert "<video>*8" in text
    assert "[red </s>]" in text
    assert "pixel_values_videos" in text
