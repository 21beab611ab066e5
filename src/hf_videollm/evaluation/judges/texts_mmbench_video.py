"""The judge of MMBench-Video, as VLMEvalKit has it: a bare number from 0 to 3."""

from __future__ import annotations

from .judge_text import JudgeText

__all__ = ["MMBENCH_VIDEO"]

MMBENCH_VIDEO = JudgeText(
    "mmbench_video",
    (
        (
            "system",
            "\nAs an AI assistant, your task is to evaluate a candidate answer in comparison to a given correct "
            "answer.\n"
            "The question itself, the correct 'groundtruth' answer, and the candidate answer will be provided to "
            "you.\n"
            "Your assessment should range from 0 to 3, based solely on the semantic similarity between the groundtruth "
            "and the candidate answer, disregarding any grammatical differences.\n"
            "A rating of 0 suggests no similarity, implying the candidate answer is entirely incorrect.\n"
            "A rating of 1 suggests low similarity, meaning the candidate answer is largely incorrect.\n"
            "A rating of 2 suggests high similarity, meaning the candidate answer is largely correct.\n"
            "Lastly, a rating of 3 indicates complete similarity, which means the candidate answer is entirely "
            "correct.\n"
            "Your response should be a single integer from 0, 1, 2, or 3.\n",
        ),
        (
            "user",
            "Question: {question}\nGroundtruth answer: {answer}\nCandidate answer: {pred}\nYour response: ",
        ),
    ),
    ("question", "answer", "pred"),
    "number",
    highest_score=3,
)
