"""A cache of decoded frames and sounds on disk, for training and evaluation."""
