"""Which prompt style each task of a run is asked in: one for all, or one for each task by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..models.video_llm_option_names import did_you_mean
from .task import Task

__all__ = ["PromptStyles", "read_prompt_styles"]


@dataclass(frozen=True)
class PromptStyles:
    """The styles of a run.

    Attributes:
        usual: of all tasks that `of_task` does not name; the tasks' own defaults when None.
        of_task: name of a task -> its style.
    """

    usual: str | None = None
    of_task: Mapping[str, str] = field(default_factory=dict)

    def of(self, task: str) -> str | None:
        """The style of a task; None for its own default."""
        return self.of_task.get(task, self.usual)

    def lacking(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that do not know the usual style, although it is meant for them.

        Args:
            tasks: of the run.

        Raises:
            ValueError: a task is named that the run does not have, or a style that its task does not know, or the usual
                style is known to none of the tasks that it is meant for. The message gives the nearest name.
        """
        by_name = {task.name: task for task in tasks}
        for name, style in self.of_task.items():
            if name not in by_name:
                raise ValueError(
                    f"The prompt style {name}={style} is for a task that this run does not have: "
                    f"{did_you_mean(name, by_name)}"
                )
            by_name[name].prompt_rule(style)
        if self.usual is None:
            return []
        meant = [task for task in tasks if task.name not in self.of_task]
        if not meant:
            raise ValueError(f"The prompt style {self.usual!r} is for no task, because each has its own: leave it out.")
        lacking = [task for task in meant if self.usual not in task.prompts]
        if len(lacking) == len(meant):
            hint = did_you_mean(self.usual, {name for task in meant for name in task.prompts})
            names = ", ".join(task.name for task in meant)
            raise ValueError(f"There is no prompt style {self.usual!r} for {names}: {hint}")
        return lacking


def read_prompt_styles(texts: Iterable[str]) -> PromptStyles:
    """Styles as people write them: `pllava` for all tasks, `mvbench=pllava,nextqa=lmms_eval` for some.

    Args:
        texts: each with one style or several, with commas between.

    Raises:
        ValueError: a part is empty, or a task, or all tasks, would have two styles.

    Example:
        >>> read_prompt_styles(["pllava,nextqa=lmms_eval"])
        PromptStyles(usual='pllava', of_task={'nextqa': 'lmms_eval'})
    """
    found: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            task, equals, style = (piece.strip() for piece in part.rpartition("="))
            if not style or (equals and not task):
                raise ValueError(f"A prompt style is STYLE, or TASK=STYLE for one task, not {text!r}.")
            if found.setdefault(task, style) != style:
                raise ValueError(
                    f"There are two prompt styles for {task or 'all tasks'}, {found[task]} and {style}: keep one."
                )
    usual = found.pop("", None)
    return PromptStyles(usual, found)
