"""Generated videos with known answers, and tiny models that are trained on them, to show that the designs learn."""
