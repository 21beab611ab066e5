"""Moved to `hf_videollm.atomic`; this name stays for those who import it from here."""

from ..atomic import atomic_file, atomic_folder, is_home_or_working_folder

__all__ = ["atomic_file", "atomic_folder", "is_home_or_working_folder"]
