"""What a chat template asks of its caller: the variables that it reads and does not set itself."""

from functools import cache
from typing import Any

# What transformers gives to every template; no caller can.
GIVEN = frozenset({"messages", "raise_exception", "strftime_now"})


def template_of(chat_template: Any, templates: Any) -> str:
    """The text of the chat template of a call.

    Args:
        chat_template: of the call, a text or the name of one of `templates`; `None` for the default one.
        templates: those of a processor, one text or texts by their names.
    """
    by_name = templates if isinstance(templates, dict) else {"default": templates}
    found = by_name.get("default" if chat_template is None else chat_template, chat_template)
    return "" if found is None else str(found)


@cache
def template_variables(template: str) -> frozenset[str]:
    """Names that the caller of a template may give values, as `enable_thinking`; none where it cannot be parsed.

    A word of the text, an argument of a call (`namespace(start=0)`) or a variable that the template sets is none.
    """
    try:
        import jinja2
        from jinja2 import ext, meta
    except ImportError:  # templates cannot be rendered then, which transformers says
        return frozenset()

    class Generation(ext.Extension):
        """The tag around answers that training reads; transformers has it, jinja2 does not."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.Environment(extensions=[Generation, ext.loopcontrols])
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(template))) - GIVEN
    except jinja2.TemplateError:  # rendering says where
        return frozenset()


__all__ = ["template_of", "template_variables"]
