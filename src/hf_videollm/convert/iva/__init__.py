"""Makes an IVA from a vision tower and a causal language model."""
