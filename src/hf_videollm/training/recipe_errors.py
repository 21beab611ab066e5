"""The error of everything that is wrong with a recipe."""

__all__ = ["RecipeError"]


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the file and the field."""
