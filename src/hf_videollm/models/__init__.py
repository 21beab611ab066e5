"""The designs. Every file of this folder can travel next to a checkpoint, so it stands alone and the folder is flat.

The name of a file says what it is:

- `<role>_<design>.py`: a class for one of transformers' roles. The roles are `configuration`, `modeling`, `processing`,
  `video_processing`, `feature_extraction`, `chat_template` and `pipeline`. Saved checkpoints name these files
  (`auto_map`), so they are never renamed.
- `<owner>_<part>.py`: everything else. The owner is who uses it: `video_llm` (the base of all designs), `media` (what
  reads videos, pictures and sound), or one design: `linvt`, `iva`, `pllava`, `videollama2`.
- `errors.py` and `transformers_compat.py` (every difference between releases of libraries) belong to all.

docs/architecture.md tells why.
"""

# At the end of this import, the designs are registered (see `registration.py`), which imports the files of this folder.
# So transformers is imported here, before any of these files: a file that is only half imported cannot be registered.
import transformers  # noqa: F401
