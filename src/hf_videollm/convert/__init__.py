"""Converters from official checkpoints to checkpoints of this package: shared steps, and one folder for each source."""

# The default for the largest size of a weight file in bytes. It is defined here because the command line reads it
# without importing torch.
MAX_SHARD_SIZE = 5 * 10**9
