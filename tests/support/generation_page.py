"""docs/generation.md, from generation_table.py: `python tests/support/generation_page.py` writes it."""

import sys
from pathlib import Path

from generation_table import DESIGNS, PARTS, TABLE

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"
HEAD = """# Options of generate

`python tests/support/generation_page.py` writes this page; do not edit it by hand.
`tests/models/test_generation_options.py` tests every cell.

- `yes`: the option works. The test compares with a simple loop that has no cache and applies the option to the scores
  of a forward over the whole prompt; for prompts with videos of different lengths, the tokens are the same.
- `refused`: the option raises a `ValueError` that names it and says what to use instead
  (`models/video_llm_generation_options.py`). Values that mean "off" are never refused.

Assisted decoding takes one prompt at a time, as always in transformers.
"""
TAIL = """
## Not in the table

- `cache` and `past_key_values` are two names for the same argument. `tests/models/test_cache_names.py` tests both, with
  a second question that continues from a kept cache.
- `cache_implementation="quantized"` needs `optimum-quanto` or `hqq`; transformers says so if they are missing. It
  rounds the cache, so tokens may differ. It was not tested here.
- `cache_implementation="offloaded"` and `"offloaded_static"` are refused for a model on the CPU, because its cache is
  on the CPU already. They are meant for models on a GPU, where they were not tested.
- `generate_batch` and the other functions for continuous batching are refused: they take only token ids, and would drop
  the videos.
- Attention: `eager` and `sdpa` are tested with every design; `flex_attention` and `flash_attention_2` need a GPU.
- A text model as `assistant_model` is refused, because it cannot see the videos.
"""


def render() -> str:
    """The page."""
    lines = [HEAD]
    for title, options in PARTS.items():
        lines += [f"## {title}", "", f"| option | tested as | {' | '.join(DESIGNS.values())} | note |"]
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
