"""The proof that the designs learn: generated videos with known answers, and tiny models."""
