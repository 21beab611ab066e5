"""Decoded frames, sounds and features of a frozen tower, kept on disk between epochs."""
