"""The version of the package. It is written in this file only."""

__version__ = "0.1.0.dev0"
