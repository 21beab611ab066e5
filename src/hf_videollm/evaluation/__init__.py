"""Benchmarks of the papers: tasks, prompts, runs, the reading of answers, judges and metrics."""
