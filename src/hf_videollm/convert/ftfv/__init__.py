"""Makes an FTFV from the vision module of Qwen-VL and a causal language model."""
