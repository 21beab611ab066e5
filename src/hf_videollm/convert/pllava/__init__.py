"""Converts PLLaVA's official checkpoints."""
