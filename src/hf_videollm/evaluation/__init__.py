"""Prompts of the papers' benchmarks, and the reading of answers."""
