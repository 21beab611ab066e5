"""`python -m hf_videollm.cli` does the same as `hf-videollm`."""

from . import main

main()
