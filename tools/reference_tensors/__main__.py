"""Write the reference tensors: `make reference`, or `PYTHONPATH=tools python -m reference_tensors [FOLDER]`."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from . import ftfv, iva, linvt, pllava, videollama2_audio, videollama2_connector

DESIGNS = (pllava, videollama2_connector, videollama2_audio, linvt, iva, ftfv)
FOLDER = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "reference"


def write(folder: Path) -> None:
    """One file per module of `DESIGNS`: its tensors in float32, its sizes as JSON in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for design in DESIGNS:
        tensors, sizes = design.make()
        path = folder / f"{design.__name__.rpartition('.')[2]}.safetensors"
        rounded = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
        save_file(rounded, path, metadata={"sizes": json.dumps(sizes)})
        print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
