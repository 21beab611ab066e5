"""Judges of open questions with a short answer: yes or no, and a score from 0 to 5.

`qa` is the same, byte for byte, in Video-ChatGPT, PLLaVA, VideoLLaMA2 and lmms-eval. The two texts for questions about
sound and picture are VideoLLaMA2's: Table 9 of its paper, and what its branch `audio_visual` sends.
"""

from __future__ import annotations

from .judge_text import JudgeText

__all__ = ["AVQA_CODE", "AVQA_TABLE9", "FRAME_FIELDS", "FRAME_OPENING", "QA", "QA_SYSTEM"]

QA_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for "
    "question-answer pairs. Your task is to compare the predicted answer with the correct answer and determine if "
    "they match meaningfully. Here's how you can accomplish the task:------##INSTRUCTIONS: - Focus on the meaningful "
    "match between the predicted answer and the correct answer.\n"
    "- Consider synonyms or paraphrases as valid matches.\n"
    "- Evaluate the correctness of the prediction compared to the answer."
)
FRAME_OPENING = "Please evaluate the following video-based question-answer pair:\n"
FRAME_FIELDS = "\nQuestion: {question}\nCorrect Answer: {answer}\nPredicted Answer: {pred}\n\n"
_ASK_FOR_VERDICT = (
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 "
    "indicating the highest meaningful match. Please generate the response in the form of a Python dictionary string "
)
_NO_OTHER_TEXT = (
    "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. For example, "
    "your response should look like this: "
)
_FIELDS = ("question", "answer", "pred")

# "is  a" with two blanks, and "STRING.DO" without one.
QA = JudgeText(
    "qa",
    (
        ("system", QA_SYSTEM),
        (
            "user",
            FRAME_OPENING
            + FRAME_FIELDS
            + _ASK_FOR_VERDICT
            + "with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' "
            "is in INTEGER, not STRING." + _NO_OTHER_TEXT + "{'pred': 'yes', 'score': 4.8}.",
        ),
    ),
    _FIELDS,
    "verdict",
)

# Quoted fields, one blank in "is a", a blank before "DO NOT", another example. The paper's page does not show whether
# there are empty lines between the parts.
AVQA_TABLE9 = JudgeText(
    "avqa_table9",
    (
        ("system", QA_SYSTEM),
        (
            "user",
            FRAME_OPENING
            + 'Question: "{question}"\nCorrect Answer: "{answer}"\nPredicted Answer: "{pred}"\n'
            + _ASK_FOR_VERDICT
            + "with keys 'pred' and 'score', where value of 'pred' is a string of 'yes' or 'no' and value of 'score' "
            "is in INTEGER, not STRING. " + _NO_OTHER_TEXT + "{'pred': 'yes', 'score': 4}.",
        ),
    ),
    _FIELDS,
    "verdict",
)

AVQA_CODE = JudgeText(
    "avqa_code",
    (
        ("system", QA_SYSTEM),
        (
            "user",
            FRAME_OPENING
            + FRAME_FIELDS
            + _ASK_FOR_VERDICT
            + "with keys 'binary_pred' and 'score', where value of 'binary_pred' is  a string of 'yes' or 'no' and "
            "value of 'score' is in INTEGER, not STRING." + _NO_OTHER_TEXT + "{'binary_pred': 'yes', 'score': 4}.",
        ),
    ),
    _FIELDS,
    "verdict",
    verdict_key="binary_pred",
)
