"""The page is one file that loads nothing, shows what was seen and answered, and takes no text for markup."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from finished_runs import choice_items, choice_task, judge, letters, open_items, write_run
from PIL import Image

from hf_videollm import load_video
from hf_videollm.evaluation.items import Medium
from hf_videollm.evaluation.report.page import as_page
from hf_videollm.evaluation.report.page_items import state_of
from hf_videollm.evaluation.report.report import make_report
from hf_videollm.evaluation.report.thumbnails import MOST_FRAMES, Thumbnails
from hf_videollm.models.errors import MediaNotFound

RIGHT = [True, False, None, True]
SHOUT = "</script><script>alert('x')</script>\"'&"
PICTURE = re.compile(r'src="data:image/jpeg;base64,([^"]+)"')


class Elements(HTMLParser):
    """Names and attributes of all elements, and the texts outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page(*folders: Path, **options: Any) -> str:
    return as_page(make_report(list(folders)), **options)


def test_nothing_is_loaded_from_anywhere(tmp_path: Path, clips: list[str]) -> None:
    items = choice_items(4, clips[0], per_video=4)
    items = [replace(item, media=(Medium(Path(clips[0])),)) for item in items]
    text = page(write_run(tmp_path / "run", letters(RIGHT, items), items))
    for tag, attributes in Elements(text).found:
        for name in ("src", "href", "action", "data", "srcset"):
            # Links to parts of the page lead nowhere else.
            assert (attributes.get(name) or "data:").startswith(("data:", "#part")), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert len(PICTURE.findall(text)) == 4 * 2


def test_texts_are_no_markup(tmp_path: Path) -> None:
    """Wherever a text of a user stands: ids, questions, options, answers, names of models, tasks and groups."""
    items = [
        replace(item, id=SHOUT, questions=(SHOUT,), groups={"duration": SHOUT}, media=(Medium(Path(SHOUT)),))
        for item in choice_items(1)
    ]
    items = [replace(items[0], options=(SHOUT, "b"), answer=SHOUT)]
    folder = write_run(tmp_path / "run", [SHOUT], items, choice_task(title=SHOUT), model=SHOUT)
    elements = Elements(page(folder))
    assert [script.get("id") for script in elements.named("script")] == ["runs", None]
    assert sum(SHOUT in text for text in elements.texts) >= 6
    # A control: a text that was not escaped would be seen.
    assert len(Elements(f"<p>{SHOUT}</p>").named("script")) == 1


def test_the_frames_are_those_that_the_model_saw(tmp_path: Path, clips: list[str]) -> None:
    (strip,) = [Thumbnails().strip({"type": "video", "path": clips[0], "frames": [3, 7]})]
    frames, _ = load_video(clips[0])
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in strip.urls]
    for picture, index in zip(shown, (3, 7), strict=True):
        expected = np.asarray(Image.fromarray(frames[index]).resize(picture.shape[1::-1])).astype(int)
        assert np.abs(picture - expected).mean() < 6
        other = np.asarray(Image.fromarray(frames[(index + 8) % len(frames)]).resize(picture.shape[1::-1])).astype(int)
        assert np.abs(picture - other).mean() > np.abs(picture - expected).mean()
    assert strip.caption.endswith("2 frames: 3, 7")


def test_of_many_frames_some_are_shown_and_it_is_said(clips: list[str]) -> None:
    strip = Thumbnails().strip({"type": "video", "path": clips[0], "frames": list(range(16))})
    assert len(strip.urls) == MOST_FRAMES
    assert "8 of 16 frames: 0, 2, 4, 6, 9, 11, 13, 15" in strip.caption


def test_a_video_is_read_once_for_questions_that_follow_each_other(clips: list[str]) -> None:
    thumbnails = Thumbnails()
    medium = {"type": "video", "path": clips[0], "frames": [0]}
    assert thumbnails.strip(medium) is thumbnails.strip(dict(medium))
    assert thumbnails.strip({**medium, "frames": [1]}) is not thumbnails.strip(medium)


def test_media_that_cannot_be_shown_are_told(tmp_path: Path, clips: list[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(clips[0]).read_bytes()[:200])
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.png")
    thumbnails = Thumbnails()
    gone = tmp_path / "gone.mp4"
    captions = {
        "gone.mp4: the file is not there any more": {
            "type": "video",
            "path": str(gone),
            "frames": [0],
        },
        "broken.mp4: cannot be read": {"type": "video", "path": str(broken), "frames": [0]},
        "0.mp4: no frames were read": {"type": "video", "path": clips[0]},
        "a.wav (sound)": {"type": "audio", "path": "a.wav"},
    }
    for caption, medium in captions.items():
        strip = thumbnails.strip(medium)
        assert strip.caption.startswith(caption)
        assert strip.urls == ()
    assert len(thumbnails.strip({"type": "image", "path": str(tmp_path / "red.png")}).urls) == 1
    assert (thumbnails.num_missing, thumbnails.num_damaged) == (1, 1)


def test_cards_say_what_became_of_each_answer(tmp_path: Path) -> None:
    items = choice_items(4)
    answers: list[Any] = letters(RIGHT, items)
    answers[3] = MediaNotFound("clip1.mp4: <gone>")
    first = write_run(tmp_path / "a", answers, items)
    second = write_run(tmp_path / "b", letters([True] * 4, items), items, model="other")
    text = page(first, second)
    cards = Elements(text).named("article")
    assert [card["data-states"] for card in cards] == ["right right", "wrong right", "unreadable right", "error right"]
    assert "MediaNotFound: clip1.mp4: &lt;gone&gt;" in text
    assert "Files that are not there any more, so that their frames are not shown: 2." in text
    assert 'id="runs" type="application/json">{"choices": ["tiny", "other"]}<' in text


def test_judged_answers_and_missing_items(tmp_path: Path) -> None:
    verdicts = {"q0": (True, 5.0), "q1": (False, 1.0)}
    folder = write_run(tmp_path / "a", list("wxyz"), open_items(), "msvd_qa", judge=judge(verdicts), policy="robust")
    shorter = write_run(tmp_path / "b", list("w"), open_items(1), "msvd_qa", model="other")
    text = page(folder, shorter)
    states = [card["data-states"] for card in Elements(text).named("article")]
    assert states == ["right unscored", "wrong absent", "failed absent", "failed absent"]
    assert "score 5; judge: True: 5.0" in text
    assert "this run has no such item" in text


def test_a_guess_is_right_or_wrong_and_not_unreadable() -> None:
    guess = {"answers": ["?"], "parse_failed": True, "choice": 1, "correct": False}
    assert state_of(guess) == "wrong"
    assert state_of({**guess, "choice": None}) == "unreadable"


def test_pages_stay_small_and_say_so(tmp_path: Path, clips: list[str]) -> None:
    items = [replace(item, media=(Medium(Path(clips[0])),)) for item in choice_items(4)]
    folder = write_run(tmp_path / "run", letters(RIGHT, items), items)
    text = page(folder, max_items=3, pictures=False)
    assert len(Elements(text).named("article")) == 3
    assert "the first 3 of 4 items are shown" in text
    assert not PICTURE.search(text)
    assert "<script" not in page(folder, max_items=0)


def test_both_runs_frames_are_shown_where_they_differ(tmp_path: Path, clips: list[str]) -> None:
    items = [replace(item, media=(Medium(Path(clips[0])),)) for item in choice_items(1)]
    first = write_run(tmp_path / "a", letters([True], items), items)
    same = write_run(tmp_path / "b", letters([True], items), items, model="same")
    other = write_run(tmp_path / "c", letters([True], items), items, model="other", frames=(1,))
    assert len(PICTURE.findall(page(first, same))) == 2
    text = page(first, same, other)
    assert len(PICTURE.findall(text)) == 3
    assert "tiny, same: 0.mp4, 2 frames: 0, 4" in text
    assert "other: 0.mp4, 1 frames: 1" in text


def test_links_lead_to_the_parts_of_the_page(tmp_path: Path) -> None:
    for task in ("a", "b"):
        write_run(tmp_path / task, letters([True] * 8, choice_items(8)), task=choice_task(task, task))
    found = Elements(as_page(make_report([tmp_path]), pictures=False)).found
    targets = [attributes["id"] for tag, attributes in found if tag == "h2"]
    links = [attributes["href"] for tag, attributes in found if tag == "a"]
    assert links == [f"#{target}" for target in targets]
    assert len(targets) == len(set(targets)) == 3


def test_a_file_that_is_not_as_annotated_is_told_at_its_frames(clips: list[str]) -> None:
    medium = {"type": "video", "path": clips[0], "frames": [1, 2], "start": 0.0, "end": 9.0, "ends": 2.5}
    medium |= {"stated": {"seconds": 60.0}, "found": {"seconds": 2.5}}
    thumbnails = Thumbnails()
    caption = thumbnails.strip(medium).caption
    assert caption.endswith("; asked about 0 to 9 s; the file ends at 2.5 s; annotated with 60 seconds, found 2.5")
    # The same frames of an item without a part are another strip.
    assert ";" not in thumbnails.strip({name: medium[name] for name in ("type", "path", "frames")}).caption
