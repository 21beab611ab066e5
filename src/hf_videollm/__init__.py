"""Video-language models as native transformers classes."""
