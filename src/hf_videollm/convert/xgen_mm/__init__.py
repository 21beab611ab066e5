"""XGen-MM, an image-LLM that LinVT can be put on."""
