"""What the model answered: the answer cut out of generated text, and MVBench's comparison with the right option.

The rules are those of magic-research/PLLaVA @ 6f49fd2, because its scores depend on them.
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
    """Text after the last role of the assistant, without the end mark and outer white space.

    All of it when the role does not occur. Some tokenizers put a blank after `<|im_start|>`; that is the same role.
    """
    start = 0
    for role in (style.assistant_role, style.assistant_role.replace("|>", "|> ")):
        if (position := decoded.rfind(role)) >= 0:
            start = max(start, position + len(role))
    answer = decoded[start:].removesuffix(style.assistant_end).strip()
    # The line break after ChatML's end mark is never generated.
    return answer.removesuffix(style.assistant_end.strip()).strip()


def extract_answer(decoded: str, style: PromptStyle, return_prefix: str = "") -> str:
    """The answer in a whole decoded sequence, prompt and generated text.

    Args:
        style: style of the prompt, with the answer prefix that the model had to continue. Everything up to its first
            occurrence is dropped and its repetitions are removed; an answer without it is empty.
        return_prefix: what to put before the answer, e.g. MVBench's `(`.
    """
    answer = last_answer(decoded, style)
    if prefix := style.answer_prefix.strip("\n"):
        answer = "".join(answer.split(prefix)[1:])
        # MVBench's answer keeps its white space: "( A)" is not "(A)".
        answer = answer if return_prefix else answer.strip()
    return return_prefix + answer


def continued_answer(generated: str, style: PromptStyle, return_prefix: str = "") -> str:
    """The same from the generated text alone, without the prompt."""
    return extract_answer(style.assistant_role + style.answer_prefix + generated, style, return_prefix)


def cut_at_keywords(text: str, keywords: Sequence[str]) -> str:
    """Text before the first of `keywords` (or all of it), without outer white space.

    The original hands its stop keywords to generation only and leaves in the answer what was written until it stopped;
    apply this to the generated text where a model goes on to invent turns of the user.
    """
    ends = [position for keyword in keywords if (position := text.find(keyword)) >= 0]
    return text[: min(ends)].strip() if ends else text.strip()


def mvbench_match(prediction: str, answer: str) -> bool:
    """Whether a prediction names the right option of MVBench.

    The first word of the prediction, in lower case, must hold one of the letters a to g, and must be part of the
    answer's first word once its full stops are gone (`A`, `(A`, `A)`), or contain that word (`(A).`, `(A)Sat`).

    Args:
        prediction: e.g. `(A) Sat down.`
        answer: e.g. `(A) Sat down`.
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
