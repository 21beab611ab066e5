"""The variables that a caller of a chat template may set: those that the template reads and does not set itself."""

from functools import cache
from typing import Any

from .errors import one_line

# Variables that transformers sets for every template, and that a caller therefore cannot set.
GIVEN = frozenset({"messages", "raise_exception", "strftime_now"})

NEVER_READ = "it never reads the variable messages"


def template_of(chat_template: Any, templates: Any) -> str:
    """The text of the chat template that a call of `apply_chat_template` uses.

    Args:
        chat_template: the argument of the call: the text of a template, or the name of one of `templates`. `None` means
            the default template.
        templates: the templates of the processor: one text, or a dict of names to texts.
    """
    by_name = templates if isinstance(templates, dict) else {"default": templates}
    text = by_name.get("default" if chat_template is None else chat_template, chat_template)
    return "" if text is None else str(text)


@cache
def template_variables(template: str) -> frozenset[str]:
    """Names of the variables that the caller of a template may set, such as `enable_thinking`.

    Plain words in the text, names of arguments inside the template (`namespace(start=0)`) and variables that the
    template sets itself do not count. The result is empty if the template cannot be parsed.
    """
    try:
        from jinja2 import Environment, TemplateError, ext, meta
    except ImportError:  # without jinja2 nothing can be rendered, and transformers raises an error that says so
        return frozenset()
    try:
        return frozenset(meta.find_undeclared_variables(_parse(template, Environment, ext))) - GIVEN
    except TemplateError:  # the error is reported when the template is rendered
        return frozenset()


def reads_messages(template: str) -> bool:
    """Whether a template can show any of the conversation."""
    return "messages" in template


def template_error(template: str) -> str | None:
    """Why a text is no chat template; `None` if it can be parsed.

    A text without variables is a template. A page or JSON value without them is another file under this name.
    """
    if not template.strip():
        return "it is empty"
    if not reads_messages(template) and template.lstrip().startswith(("<", "[", "{")):
        return NEVER_READ
    try:
        from jinja2 import Environment, TemplateError, ext
    except ImportError:
        return None
    try:
        _parse(template, Environment, ext)
    except (TemplateError, RecursionError) as error:
        return one_line(error, 200)
    return None


def _parse(template: str, environment: Any, ext: Any) -> Any:
    """The syntax tree of a template.

    Args:
        template: the text.
        environment: jinja2's class `Environment`, which the caller imports, because jinja2 may be missing.
        ext: jinja2's module of extensions.

    Raises:
        jinja2.TemplateError: the template cannot be parsed.
    """

    class Generation(ext.Extension):
        """Lets jinja2 parse `{% generation %}`, which transformers defines, and jinja2 by itself does not know."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return environment(extensions=[Generation, ext.loopcontrols]).parse(template)


__all__ = ["template_error", "template_of", "template_variables"]
