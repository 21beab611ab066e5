"""Conversations about videos, as records."""
