"""Converts VideoLLaMA2's official checkpoints, with and without the audio branch."""
