"""The designs. Every file of this folder can travel next to a checkpoint, so it stands alone (docs/architecture.md)."""
