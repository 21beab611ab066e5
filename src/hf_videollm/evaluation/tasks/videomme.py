"""Video-MME: questions with four options about videos of minutes to an hour, with and without their subtitles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from ..choice_items import by_letter, choice_item, listed_options
from ..choice_prompts import bare_question
from ..data_files import DataFiles
from ..items import Item, Medium
from ..paper_prompts import greedy
from ..prompting import LETTER_DIRECTLY, Prompt, PromptRule, lettered, raw_question
from ..prompts_videollama2 import GENERATION, instruction
from ..row_joins import medium_in, rows_by_id
from ..subtitles import SubtitleLine, frame_times, lines_at, middle_times, read_srt, video_clock
from ..task import Task

__all__ = ["TASKS"]

_PATTERNS = ("videomme/test-*.parquet", "test-*.parquet", "*/videomme/test-*.parquet")
_COLUMNS = (
    "duration",
    "domain",
    "sub_category",
    "videoID",
    "question_id",
    "task_type",
    "question",
    "options",
    "answer",
)
_GROUPS = ("duration", "domain", "sub_category", "task_type")


def _loader(with_subtitles: bool) -> Callable[[DataFiles], Iterator[Item]]:
    def load(data: DataFiles) -> Iterator[Item]:
        subtitles: dict[str, tuple[SubtitleLine, ...]] = {}
        for name, row in rows_by_id(data.parquet_rows(*_PATTERNS, columns=_COLUMNS), "question_id").items():
            video, options = row.get("videoID"), listed_options(row, "options")
            extra: dict[str, object] = {"listed": tuple(row.get("options", list))}
            if with_subtitles:
                if video not in subtitles:
                    subtitles[video] = _subtitles(data, video)
                extra["subtitles"] = subtitles[video]
            yield choice_item(
                row,
                name,
                Medium(medium_in(data, ("data", "videos", "video"), video, (".mp4", ".MP4", ".mkv"))),
                row.get("question"),
                options,
                by_letter(row, "answer", options),
                groups={group: row.get(group) for group in _GROUPS},
                extra=extra,
            )

    return load


def _subtitles(data: DataFiles, video: str) -> tuple[SubtitleLine, ...]:
    """The subtitles of a video; none where there is no file, as for some videos of the set."""
    path = medium_in(data, ("subtitle", "subtitles"), video, (".srt",))
    return read_srt(path) if path.exists() else ()


_SELECT = "Select the best answer to the following multiple-choice question based on the video{too}. Respond with only "
_SELECT += "the letter (A, B, C, or D) of the correct option."
_BELOW = "This video's subtitles are listed below:{blank}\n{subtitles}\n"
_BEST = "The best answer is:"
_FRAMES_LMMS_EVAL = 32


def _listed(item: Item) -> list[str]:
    """The options as the file writes them, with letters; with letters of ours for items from elsewhere."""
    return list(item.extra.get("listed") or lettered(item.options, "{letter}. {option}"))


def _at(item: Item, times: Sequence[float]) -> list[str]:
    """The subtitles at some times, in their order. A text that stays is repeated, one for each frame."""
    return [line.text for line in lines_at(item.extra["subtitles"], times) if line.text]


def _shown(item: Item) -> list[str]:
    """The subtitles at the times of the frames that the model sees: the benchmark's own protocol."""
    return _at(item, frame_times(item))


def _shown_videollama2(item: Item) -> list[str]:
    """The subtitles at VideoLLaMA2's times, each once: the middles of as many equal parts as the model sees frames.

    Its code rounds them in another way than those of the frames themselves; they differ by a frame at most.
    """
    clock = video_clock(item.media[0].path)
    times = middle_times(len(frame_times(item)), clock) if clock and frame_times(item) else []
    return list(dict.fromkeys(_at(item, times)))


def _official(item: Item, question: str) -> Prompt:
    lines = [_SELECT.format(too=""), question, *_listed(item), _BEST]
    return Prompt("\n".join(lines), generate_kwargs=greedy(16))


def _official_with(subtitles: Callable[[Item], list[str]]) -> PromptRule:
    def rule(item: Item, question: str) -> Prompt:
        # Some videos have no subtitles.
        if not (texts := subtitles(item)):
            return _official(item, question)
        lines = [_SELECT.format(too=" and the subtitles"), question, *_listed(item), _BEST]
        below = _BELOW.format(blank="", subtitles="\n".join(texts))
        return Prompt(below + "\n".join(lines), generate_kwargs=greedy(16))

    return rule


def _videollama2(item: Item, question: str) -> Prompt:
    return Prompt(instruction("videomme", question, _listed(item)), generate_kwargs=GENERATION)


def _videollama2_with_subtitles(item: Item, question: str) -> Prompt:
    # The first line stays even where no subtitles follow.
    below = _BELOW.format(blank="", subtitles="\n".join(_shown_videollama2(item)))
    return Prompt(below + instruction("videomme", question, _listed(item)), generate_kwargs=GENERATION)


def _linvt(item: Item, question: str) -> Prompt:
    lines = [_SELECT.format(too=""), question, *_listed(item), LETTER_DIRECTLY]
    return Prompt("\n".join(lines), generate_kwargs=greedy(100))


def _linvt_with_subtitles(item: Item, question: str) -> Prompt:
    below = _BELOW.format(blank="", subtitles="\n".join(_shown(item)))
    return Prompt(below + _linvt(item, question).text, generate_kwargs=greedy(100))


def _lmms_eval(item: Item, question: str) -> Prompt:
    # It speaks of subtitles even where it shows none. The empty line is its own.
    lines = [_SELECT.format(too=" and the subtitles"), question, *_listed(item)]
    lines.append("\nAnswer with the option's letter from the given choices directly.")
    return Prompt("\n".join(lines), generate_kwargs=greedy(16))


_FONT = re.compile(r'<font color="white" size=".72c">(.*?)</font>')


def _lmms_eval_with_subtitles(item: Item, question: str) -> Prompt:
    lines: Sequence[SubtitleLine] = item.extra["subtitles"]
    shown = "\n".join(_lmms_eval_lines(item, lines)) if lines else "No subtitles available"
    asked = [_SELECT.format(too=" and the subtitles"), question, *_listed(item), _BEST]
    below = _BELOW.format(blank=" ", subtitles=shown)
    return Prompt(below + "\n".join(asked), generate_kwargs=greedy(16))


def _lmms_eval_lines(item: Item, lines: Sequence[SubtitleLine]) -> list[str]:
    """Texts in white, of the lines that are shown at 32 frames; each line once, in the order of the file.

    The original goes through a set of numbers, whose order is that of the file for small ones.
    """
    frames, fps = video_clock(item.media[0].path) or (int(lines[-1].end * 10) + 1, 10.0)
    wanted = [int(number * (frames - 1) / (_FRAMES_LMMS_EVAL - 1)) for number in range(_FRAMES_LMMS_EVAL)]
    shown = [line for line in lines if any(int(line.start * fps) <= frame < int(line.end * fps) for frame in wanted)]
    return [found[1] for line in shown if (found := _FONT.search(line.raw))]


_WITHOUT = {
    "default": _official,
    "official": _official,
    "videollama2": _videollama2,
    "linvt": _linvt,
    "lmms_eval": _lmms_eval,
    "raw": raw_question,
    "bare": bare_question,
}
_WITH: dict[str, PromptRule] = {
    "default": _official_with(_shown),
    "official": _official_with(_shown),
    "official_all_lines": _official_with(lambda item: [line.text for line in item.extra["subtitles"] if line.text]),
    "videollama2": _videollama2_with_subtitles,
    "linvt": _linvt_with_subtitles,
    "lmms_eval": _lmms_eval_with_subtitles,
    "bare": bare_question,
}
_RULES = {
    "default": "robust",
    "official": "official_videomme",
    "lmms_eval": "official_videomme",
    "videollama2": "videollama2_videomme",
}
_FILES = (
    "videomme/test-*.parquet - videoID, duration, domain, sub_category, task_type, question_id, question, options, "
    "answer; also without the folder",
    "data/{videoID}.mp4 - the videos; .mkv, and the folders videos and video, are found, too",
)
_HUB_IDS = ("lmms-eval/Video-MME", "lmms-lab/Video-MME")
_SOURCE = "https://github.com/MME-Benchmarks/Video-MME"
_NOTES = (
    "'Long' in LinVT's table is the row `long` of the table `duration`.",
    "VideoLLaMA2's numbers count an answer without a letter as C (--fallback third).",
)
# Overall: Table 11 for InternVL2 1B, Aquila and Qwen2-VL, Table 2 for Mipha. Long videos: Table 9.
_LINVT_WITHOUT = {
    "LinVT-InternVL2 1B": {"accuracy": 49.9},
    "LinVT-Mipha 1.6B": {"accuracy": 48.4, "long": 44.5},
    "LinVT-Aquila 2B": {"accuracy": 53.4, "long": 53.4},
    "LinVT-BLIP-3 4B": {"long": 58.3},
    "LinVT-Molmo 7B": {"long": 57.6},
    "LinVT-Qwen2-VL 7B": {"accuracy": 66.4, "long": 63.1},
    "LinVT-InternVL2 8B": {"long": 60.2},
}
_LINVT_WITH = {
    "LinVT-InternVL2 1B": {"accuracy": 51.8},
    "LinVT-Mipha 1.6B": {"accuracy": 49.2, "long": 46.1},
    "LinVT-Aquila 2B": {"accuracy": 55.3, "long": 55.3},
    "LinVT-BLIP-3 4B": {"long": 62.4},
    "LinVT-Molmo 7B": {"long": 61.2},
    "LinVT-Qwen2-VL 7B": {"accuracy": 67.6, "long": 63.3},
    "LinVT-InternVL2 8B": {"long": 63.5},
}

TASKS = [
    Task(
        name="videomme",
        title="Video-MME",
        load=_loader(with_subtitles=False),
        files=_FILES,
        hub_ids=_HUB_IDS,
        source=_SOURCE,
        prompts=_WITHOUT,
        metric="multiple_choice",
        choice_rules=_RULES,
        group_by=_GROUPS,
        published={
            "videollama2": {  # Table 5
                "VideoLLaMA 2 (7B), 8 frames": {"accuracy": 44.0},
                "VideoLLaMA 2 (7B), 16 frames": {"accuracy": 46.6},
                "VideoLLaMA 2 (8x7B), 8 frames": {"accuracy": 48.4},
            },
            "linvt": _LINVT_WITHOUT,
        },
        notes=(*_NOTES, "LinVT prints the same two numbers for all videos (Aquila, Table 11) and long ones (Table 9)."),
    ),
    Task(
        name="videomme_subtitles",
        title="Video-MME (with subtitles)",
        load=_loader(with_subtitles=True),
        files=(*_FILES, "subtitle/{videoID}.srt - the subtitles; some videos have none"),
        hub_ids=_HUB_IDS,
        source=_SOURCE,
        prompts=_WITH,
        metric="multiple_choice",
        choice_rules=_RULES,
        group_by=_GROUPS,
        published={"linvt": _LINVT_WITH},
        notes=(
            *_NOTES,
            "Subtitles are those that are shown at the times of the frames that the model sees, one for each frame. "
            "`videollama2` rounds these times in its own way; `lmms_eval` takes 32 frames, whatever the model sees.",
            "`official_all_lines` gives all subtitles; those of an hour are longer than the context of many models.",
            "LinVT does not say how it chooses subtitles; VideoLLaMA2's rule stands for it.",
        ),
    ),
]
