"""Small reference tensors of the five designs, computed from the papers without this package: see README.md."""
