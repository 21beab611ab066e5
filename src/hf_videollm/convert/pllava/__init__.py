"""PLLaVA's official checkpoints."""
