"""What a model costs: parameters, visual tokens, operations."""
