"""docs/generation.md, from generation_table.py: `python tests/support/generation_page.py` writes it."""

import sys
from pathlib import Path

from generation_table import DESIGNS, PARTS, TABLE

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"
HEAD = """# Options of generate

Written by `python tests/support/generation_page.py`: do not edit by hand. `tests/models/test_generation_options.py`
tries every cell.

`yes`: on prompts with videos of different lengths, the tokens are those of a loop by hand without a cache, in which the
option is applied to the scores of a forward over the whole prompt. `refused`: a `ValueError` that names the option and
says what to use instead (`models/video_llm_generation_options.py`). Assisted decoding takes one prompt at a time, as
everywhere in transformers. Values that mean "off" are never refused.
"""
TAIL = """
## Not in the table

- `cache` and `past_key_values`, two names of one thing: `tests/models/test_cache_names.py`, with a second question
  behind a kept cache.
- `cache_implementation="quantized"`: needs `optimum-quanto` or `hqq`, which transformers names when they are missing.
  It rounds, so tokens may differ; not tried here.
- `cache_implementation="offloaded"` and `"offloaded_static"`: refused for a model on the CPU, where there is nothing to
  move; for models on a GPU.
- `generate_batch` and the other ways to continuous batching: refused, they take ids alone and drop the videos.
- Attention: `eager` and `sdpa` are tried on every design; `flex_attention` and `flash_attention_2` need a GPU.
- A text model as `assistant_model`: refused, it cannot be given the videos.
"""


def render() -> str:
    """The page."""
    lines = [HEAD]
    for title, options in PARTS.items():
        lines += [f"## {title}", "", f"| option | tried | {' | '.join(DESIGNS.values())} | note |"]
        lines.append("|" + "---|" * (len(DESIGNS) + 3))
        for option in options:
            cells = ["refused" if design in option.refused else "yes" for design in DESIGNS]
            call = option.call.replace("|", "\\|")
            lines.append(f"| `{option.name}` | `{call}` | {' | '.join(cells)} | {option.note} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n" + TAIL


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {len(TABLE)} rows\n")
