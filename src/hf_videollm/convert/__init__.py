"""Official checkpoints become checkpoints of ours: the steps that all share, and one folder for each source."""
