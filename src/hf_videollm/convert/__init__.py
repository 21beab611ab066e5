"""Official checkpoints become checkpoints of ours: the steps that all share, and one folder for each source."""

# Bytes of one weight file, unless the user says otherwise. Here, because the command line reads it without torch.
MAX_SHARD_SIZE = 5 * 10**9
