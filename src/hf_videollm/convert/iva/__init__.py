"""IVA from a vision tower and a Llama."""
