"""The five judges of Video-ChatGPT's benchmark (VCG): a score from 0 to 5 for each aspect of an answer.

Two variants exist. They differ in the example at the end: `{''score': 4.8}` with two quotes in Video-ChatGPT,
VideoLLaMA2 and lmms-eval (`vcg_original`), `{'score': 4.8}` in PLLaVA (`vcg_pllava`).
"""

from __future__ import annotations

from typing import NamedTuple

from .judge_text import JudgeText
from .texts_qa import FRAME_FIELDS, FRAME_OPENING

__all__ = ["ASPECTS", "VCG_TEXTS", "VCG_VARIANTS", "Aspect", "score_request"]


class Aspect(NamedTuple):
    """What differs from aspect to aspect: the system text, and three names in the request for a score."""

    system: str
    label: str
    level: str
    value: str


_HOW = "Here's how you can accomplish the task:------##INSTRUCTIONS: "

ASPECTS: dict[str, Aspect] = {
    "correctness": Aspect(
        "You are an intelligent chatbot designed for evaluating the factual accuracy of generative outputs for "
        "video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer and "
        "determine if they are factually consistent. "
        + _HOW
        + "- Focus on the factual consistency between the predicted answer and the correct answer. The predicted "
        "answer should not contain any misinterpretations or misinformation.\n"
        "- The predicted answer must be factually accurate and align with the video content.\n"
        "- Consider synonyms or paraphrases as valid matches.\n"
        "- Evaluate the factual accuracy of the prediction compared to the answer.",
        "factual accuracy score",
        "factual consistency",
        "the factual accuracy score",
    ),
    "detail": Aspect(
        "You are an intelligent chatbot designed for evaluating the detail orientation of generative outputs for "
        "video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer and "
        "determine its level of detail, considering both completeness and specificity. "
        + _HOW
        + "- Check if the predicted answer covers all major points from the video. The response should not leave out "
        "any key aspects.\n"
        "- Evaluate whether the predicted answer includes specific details rather than just generic points. It should "
        "provide comprehensive information that is tied to specific elements of the video.\n"
        "- Consider synonyms or paraphrases as valid matches.\n"
        "- Provide a single evaluation score that reflects the level of detail orientation of the prediction, "
        "considering both completeness and specificity.",
        "detail orientation score",
        "detail orientation",
        "the detail orientation score",
    ),
    "context": Aspect(
        "You are an intelligent chatbot designed for evaluating the contextual understanding of generative outputs "
        "for video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer "
        "and determine if the generated response aligns with the overall context of the video content. "
        + _HOW
        + "- Evaluate whether the predicted answer aligns with the overall context of the video content. It should "
        "not provide information that is out of context or misaligned.\n"
        "- The predicted answer must capture the main themes and sentiments of the video.\n"
        "- Consider synonyms or paraphrases as valid matches.\n"
        "- Provide your evaluation of the contextual understanding of the prediction compared to the answer.",
        "contextual understanding score",
        "contextual understanding",
        "contextual understanding score",  # without "the", unlike the others
    ),
    "temporal": Aspect(
        "You are an intelligent chatbot designed for evaluating the temporal understanding of generative outputs for "
        "video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer and "
        "determine if they correctly reflect the temporal sequence of events in the video content. "
        + _HOW
        + "- Focus on the temporal consistency between the predicted answer and the correct answer. The predicted "
        "answer should correctly reflect the sequence of events or details as they are presented in the video "
        "content.\n"
        "- Consider synonyms or paraphrases as valid matches, but only if the temporal order is maintained.\n"
        "- Evaluate the temporal accuracy of the prediction compared to the answer.",
        "temporal accuracy score",
        "temporal consistency",
        "the temporal accuracy score",
    ),
    # "questions ." with a blank, and no blank before "Your task".
    "consistency": Aspect(
        "You are an intelligent chatbot designed for evaluating the consistency of generative outputs for similar "
        "video-based question-answer pairs. You will be given two very similar questions, a common answer common to "
        "both the questions and predicted answers for the two questions .Your task is to compare the predicted "
        "answers for two very similar question, with a common correct answer and determine if they are consistent. "
        + _HOW
        + "- Focus on the consistency between the two predicted answers and the correct answer. Both predicted "
        "answers should correspond to the correct answer and to each other, and should not contain any contradictions "
        "or significant differences in the conveyed information.\n"
        "- Both predicted answers must be consistent with each other and the correct answer, in terms of the "
        "information they provide about the video content.\n"
        "- Consider synonyms or paraphrases as valid matches, but only if they maintain the consistency in the "
        "conveyed information.\n"
        "- Evaluate the consistency of the two predicted answers compared to the correct answer.",
        "consistency score",
        "consistency",
        "the consistency score",
    ),
}
VCG_VARIANTS: dict[str, str] = {"vcg_original": "{''score': 4.8}", "vcg_pllava": "{'score': 4.8}"}
_PAIR_FIELDS = (
    "\nQuestion 1: {question1}\nQuestion 2: {question2}\nCorrect Answer: {answer}\n"
    "Predicted Answer to Question 1: {pred1}\nPredicted Answer to Question 2: {pred2}\n\n"
)


def score_request(aspect: Aspect, example: str) -> str:
    """The end of the user text: it asks for a score of this aspect and shows an example of a reply."""
    return (
        f"Provide your evaluation only as a {aspect.label} where the {aspect.label} is an integer value between 0 and "
        f"5, with 5 indicating the highest level of {aspect.level}. Please generate the response in the form of a "
        f"Python dictionary string with keys 'score', where its value is {aspect.value} in INTEGER, not STRING.DO NOT "
        "PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. For example, your "
        f"response should look like this: {example}."
    )


def _make(variant: str, name: str) -> JudgeText:
    is_pair = name == "consistency"
    user = FRAME_OPENING + (_PAIR_FIELDS if is_pair else FRAME_FIELDS)
    user += score_request(ASPECTS[name], VCG_VARIANTS[variant])
    return JudgeText(
        f"{variant}_{name}",
        (("system", ASPECTS[name].system), ("user", user)),
        ("question1", "question2", "answer", "pred1", "pred2") if is_pair else ("question", "answer", "pred"),
        "score",
        predictions=("pred1", "pred2") if is_pair else ("pred",),
        zero_when_empty=True,
    )


VCG_TEXTS = tuple(_make(variant, name) for variant in VCG_VARIANTS for name in ASPECTS)
