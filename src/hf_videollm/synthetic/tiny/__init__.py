"""Tiny models of each design, small enough to be trained on two CPU cores."""
