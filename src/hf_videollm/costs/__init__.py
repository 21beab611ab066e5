"""Counts what a model costs: parameters, visual tokens, operations, memory."""
