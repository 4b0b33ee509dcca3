"""Tensors of a training on disk: safetensors, written whole or not at all. No pickle is ever read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from .disk import replace_file

# Raised when a change makes older files unreadable; add the step from the former one to MIGRATIONS if there is one.
FORMAT = 3


def _from_1(tensors: dict[str, Tensor], data: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trainings did not end early yet."""
    return tensors, data | {"trials": 0, "trialSeconds": 0.0, "passed": None, "budget": None}


def _from_2(tensors: dict[str, Tensor], data: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser was another one: what it had gathered is of no use, the weights are."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("optimiser.")}, data


MIGRATIONS: dict[int, Any] = {1: _from_1, 2: _from_2}


def save_checkpoint(path: Path, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
    """Write tensors and JSON data atomically: a crash at any instant leaves the former file or the new one.

    Raises:
        OSError: the disk is full or gone; the former file is still there.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    payload = save(plain, {"format": str(FORMAT), "data": json.dumps(data, allow_nan=False)})
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        replace_file(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and data of a file.

    Raises:
        InputError: not such a file, damaged, or of another version.
    """
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError:
        raise InputError(f"The job folder has no {path.name}: nothing has been learnt yet.") from None
    except (SafetensorError, OSError):
        raise InputError(f"{path.name} is damaged; delete it to start the training anew.") from None
    try:
        version, data = int(metadata["format"]), json.loads(metadata["data"])
    except (KeyError, ValueError):
        raise InputError(f"{path.name} was not written by DiffPoseSlicer; delete it to start anew.") from None
    while version < FORMAT and version in MIGRATIONS:
        tensors, data = MIGRATIONS[version](tensors, data)
        version += 1
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise InputError(
            f"{path.name} was written by {age} version of DiffPoseSlicer (format {version}, this one reads {FORMAT}): "
            f"{'update DiffPoseSlicer' if version > FORMAT else 'train again in a new folder'}."
        )
    return tensors, data
