"""Extracts the answer from generated text, and compares it with the right option of MVBench.

The rules are those of magic-research/PLLaVA @ 6f49fd2, because its published scores depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .prompts import PromptStyle

__all__ = [
    "continued_answer",
    "cut_at_keywords",
    "extract_answer",
    "generated_answer",
    "last_answer",
    "mvbench_match",
]


def last_answer(decoded: str, style: PromptStyle) -> str:
    """The text after the last role of the assistant, without the end mark and surrounding white space.

    If the role does not occur, this is the whole text. Some tokenizers add a blank after `<|im_start|>`; the role is
    then found, too.
    """
    start = 0
    for role in (style.assistant_role, style.assistant_role.replace("|>", "|> ")):
        if (position := decoded.rfind(role)) >= 0:
            start = max(start, position + len(role))
    answer = decoded[start:].removesuffix(style.assistant_end).strip()
    # The line break after ChatML's end mark is never generated.
    return answer.removesuffix(style.assistant_end.strip()).strip()


def extract_answer(decoded: str, style: PromptStyle, return_prefix: str = "") -> str:
    """The answer in a whole decoded sequence, which is prompt and generated text.

    Args:
        decoded: the decoded sequence.
        style: style of the prompt, with the answer prefix that the model had to continue. Everything up to its first
            occurrence is dropped, and its repetitions are removed. An answer without it is empty.
        return_prefix: text to put before the answer, such as MVBench's `(`.
    """
    answer = last_answer(decoded, style)
    if prefix := style.answer_prefix.strip("\n"):
        answer = "".join(answer.split(prefix)[1:])
        # The white space of MVBench's answers is kept, because "( A)" is not the same as "(A)".
        answer = answer if return_prefix else answer.strip()
    return return_prefix + answer


def continued_answer(generated: str, style: PromptStyle, return_prefix: str = "") -> str:
    """The answer in the generated text alone, without the prompt, by the rule of `extract_answer`."""
    return extract_answer(style.assistant_role + style.answer_prefix + generated, style, return_prefix)


def cut_at_keywords(text: str, keywords: Sequence[str]) -> str:
    """The text before the first of `keywords`, or the whole text, without surrounding white space.

    The original code uses its stop keywords only to stop generation, and keeps in the answer all that was written until
    then. Use this function if a model goes on to write turns of the user.
    """
    ends = [position for keyword in keywords if (position := text.find(keyword)) >= 0]
    return text[: min(ends)].strip() if ends else text.strip()


def mvbench_match(prediction: str, answer: str) -> bool:
    """Whether a prediction names the right option of MVBench.

    The first word of the prediction, in lower case, must contain one of the letters a to g. Without its full stops, it
    must be part of the answer's first word (`A`, `(A`, `A)`), or it must contain that word (`(A).`, `(A)Sat`).

    Args:
        prediction: the answer of the model, such as `(A) Sat down.`
        answer: the right option, such as `(A) Sat down`.
    """
    predicted, expected = (text.lower().split(" ")[0] for text in (prediction, answer))
    if not any(letter in predicted for letter in "abcdefg"):
        return False
    return predicted.replace(".", "") in expected or expected in predicted


def generated_answer(generated: str, answer_prefix: str = "", return_prefix: str = "", stop: Sequence[str] = ()) -> str:
    """The answer in generated text, cut as `extract_answer` cuts it, but without a style.

    Args:
        generated: what the model wrote behind the prompt, without special tokens.
        answer_prefix: the beginning of the answer that the model had to continue; its repetitions are removed.
        return_prefix: what to put before the answer.
        stop: texts at which the answer ends.

    Examples:
        >>> generated_answer(" a dog. USER: Which?", stop=("USER",))
        'a dog.'
        >>> generated_answer("A) a dog", answer_prefix="Best option:(", return_prefix="(")
        '(A) a dog'
    """
    ends = [position for text in stop if (position := generated.find(text)) >= 0]
    answer = generated[: min(ends)] if ends else generated
    if prefix := answer_prefix.strip("\n"):
        answer = "".join((prefix + answer.rstrip()).split(prefix)[1:])
    return return_prefix + answer if prefix and return_prefix else return_prefix + answer.strip()
