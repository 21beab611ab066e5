"""What every checkpoint that comes with the package is."""

from pathlib import Path

FILES = {"config.json", "processor_config.json", "tokenizer.json", "training_log.jsonl", "TRAINING.md"}


def assert_small_and_whole(folder: Path, max_bytes: int) -> None:
    """Weights of at most some bytes in all, everything else that loading needs, how it was trained, and no code."""
    files = [item for item in folder.rglob("*") if item.is_file()]
    weights = [item.stat().st_size for item in files if item.suffix == ".safetensors"]
    assert weights
    assert sum(weights) <= max_bytes
    assert {item.name for item in files} >= FILES
    assert not [item.name for item in files if item.suffix in (".bin", ".pt", ".pkl", ".py")]
