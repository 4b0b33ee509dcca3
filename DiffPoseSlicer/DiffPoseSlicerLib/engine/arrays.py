"""Arrays on their way between client and worker: `.npy` files in one private folder.

In a message an array is `{"npy": "c12-3.npy"}`: a file's name in the folder that "hello" named.
"""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

# The folder's name starts with this, so that a worker left alone can tell that it may be emptied.
FOLDER_PREFIX = "diffposeslicer-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.npy")


def is_reference(value: Any) -> bool:
    """Whether a message's value stands for an array."""
    return isinstance(value, dict) and set(value) == {"npy"}


class ArrayFolder:
    """One side's view of the folder. `side` keeps the names of the two sides apart."""

    def __init__(self, folder: str | os.PathLike[str], side: str) -> None:
        self.folder = Path(folder)
        self._names = (f"{side}{os.getpid()}-{n}.npy" for n in itertools.count(1))

    def save(self, array: NDArray[Any]) -> dict[str, str]:
        """Write an array; what stands for it in a message."""
        name = next(self._names)
        np.save(self.folder / name, array, allow_pickle=False)
        return {"npy": name}

    def path(self, reference: Any) -> Path:
        """The file a reference names.

        Raises:
            InputError: it is no reference to a file of the folder.
        """
        name = reference["npy"] if is_reference(reference) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError('An array is expected here, as {"npy": "NAME.npy"} in the folder that hello named.')
        return self.folder / name

    def load(self, reference: Any) -> NDArray[Any]:
        """The array a reference names.

        Raises:
            InputError: there is none.
        """
        path = self.path(reference)
        try:
            return np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise InputError(f"The array {path.name} does not exist.") from None
        except (OSError, ValueError, EOFError):
            raise InputError(f"The array {path.name} cannot be read: it is damaged or no .npy file.") from None

    def remove(self, reference: Any) -> None:
        """Delete the file a reference names; nothing happens where it is gone."""
        with suppress(OSError):  # on Windows while somebody reads it: it goes with the folder
            self.path(reference).unlink(missing_ok=True)

    def pack(self, value: Any, made: list[dict[str, str]] | None = None) -> Any:
        """A copy of `value` in which arrays have become files and references; `made` collects these."""
        if isinstance(value, np.ndarray):
            reference = self.save(value)
            if made is not None:
                made.append(reference)
            return reference
        if isinstance(value, dict):
            return {key: self.pack(item, made) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.pack(item, made) for item in value]
        return value

    def unpack(self, value: Any) -> Any:
        """A copy of `value` in which references have become arrays again; their files are deleted."""
        if is_reference(value):
            array = self.load(value)
            self.remove(value)
            return array
        if isinstance(value, dict):
            return {key: self.unpack(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.unpack(item) for item in value]
        return value

    def clear(self) -> None:
        """Delete the arrays, and the folder with them where nothing else is in it."""
        if not self.folder.name.startswith(FOLDER_PREFIX):
            return
        with suppress(OSError):
            for path in self.folder.glob("*.npy"):
                path.unlink(missing_ok=True)
            self.folder.rmdir()
