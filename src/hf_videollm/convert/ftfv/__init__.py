"""FTFV from a Qwen-VL vision tower and a Llama."""
