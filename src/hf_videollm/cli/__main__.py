"""`python -m hf_videollm.cli` does what `hf-videollm` does."""

from . import main

main()
