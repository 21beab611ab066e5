"""A judge without a model, for work offline: it compares words.

Its results are no GPT scores and are never reported as such: its kind is `rule`. It cannot see that two
words mean the same, nor that a sentence is denied, and it gives the five aspects of VCG one and the same score.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..errors import JudgeStopError
from ..items import JudgeItem
from ..judge_text import ChatMessage
from .protocol import Judge

__all__ = ["RuleJudge", "answer_words", "word_overlap"]

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_AS_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
# From this overlap on, an answer counts as right.
RIGHT_FROM = 0.5


class RuleJudge(Judge):
    """Judges by words: containment of the right answer, else the F1 overlap of words.

    * If the right answer is yes or no, the first yes or no of the prediction decides.
    * If the words of the right answer stand in the prediction in this order and without a gap, the overlap is 1.
    * Otherwise it is the F1 of the two bags of words.

    `pred` is yes from an overlap of 0.5 on, and the score is five times the overlap (three times for MMBench-Video),
    rounded. With several right answers the best one counts, with two predictions the worse one. Where the text asks for
    the letter of an option, the package's own rule of multiple choice reads it.

    Example:
        >>> from hf_videollm.evaluation.judges.texts import QA
        >>> item = JudgeItem("1", QA, {"question": "Who runs?", "answer": "a dog", "pred": "The dog runs."})
        >>> RuleJudge().complete([], item=item)
        "{'pred': 'yes', 'score': 5}"
    """

    kind = "rule"
    model = "word overlap"

    def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        item: JudgeItem | None = None,
        attempt: int = 1,
    ) -> str:
        """A reply in the form that the text asks for; see `Judge.complete`. The messages are not read.

        Raises:
            JudgeStopError: there is no item, or the text asks for the letter of an option and the item has no options.
        """
        if item is None:
            raise JudgeStopError("The rule judge reads no messages: pass the item that they were rendered from.")
        text = item.text
        if text.reply == "letter":
            return _letter(item)
        references = item.values["refs" if "refs" in text.fields else "answer"]
        references = [references] if isinstance(references, str) else list(references)
        predictions = [str(item.values[name]) for name in text.predictions]
        overlap = min(max(word_overlap(right, pred) for right in references) for pred in predictions)
        # Half up, so that no score depends on whether it is even.
        score = int(text.highest_score * overlap + 0.5)
        if text.reply == "number":
            return str(score)
        if text.reply != "verdict":
            return str({"score": score})
        return str({text.verdict_key: "yes" if overlap >= RIGHT_FROM else "no", "score": score})

    def repeats_itself(self, temperature: float | None) -> bool:
        """Always: nothing is drawn."""
        return True


def _letter(item: JudgeItem) -> str:
    """The option that the package's own rule reads in the prediction, in the form of Video-Bench's matcher.

    An answer that the rule cannot read gives no letter, so the judgement counts as failed.
    """
    if not item.options:
        raise JudgeStopError(
            f"The rule judge cannot choose options ({item.text.name}) that it does not know: give the item `options`."
        )
    from ...multiple_choice import parse_choice  # loads transformers
    from ...prompting import letter_of

    choice = parse_choice(str(item.values[item.text.predictions[0]]), item.options)
    letter = "" if choice.index is None else letter_of(choice.index)
    return json.dumps({"maximum probability": letter})


def answer_words(text: str) -> list[str]:
    """The words of an answer in lower case, without punctuation and articles, small numbers as digits.

    Example:
        >>> answer_words("The Two dogs' ball!")
        ['2', 'dogs', 'ball']
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return [_AS_DIGITS.get(word, word) for word in words if word not in _ARTICLES]


def word_overlap(right: str, prediction: str) -> float:
    """How far a prediction has the words of the right answer: from 0 to 1.

    Example:
        >>> word_overlap("no", "No, there is none."), word_overlap("red car", "a blue car")
        (1.0, 0.5)
    """
    wanted, found = answer_words(right), answer_words(prediction)
    if wanted in (["yes"], ["no"]):
        said = [word for word in found if word in ("yes", "no")]
        return float(said[:1] == wanted)
    if not wanted or not found:
        return float(wanted == found and right.strip() == prediction.strip())
    length = len(wanted)
    if any(found[start : start + length] == wanted for start in range(len(found) - length + 1)):
        return 1.0
    common = sum((Counter(wanted) & Counter(found)).values())
    return 2 * common / (length + len(found))
