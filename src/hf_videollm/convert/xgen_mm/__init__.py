"""Converts XGen-MM, an image-LLM that LinVT can use."""
