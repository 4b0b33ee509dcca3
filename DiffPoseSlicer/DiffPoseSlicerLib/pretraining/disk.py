"""Files that survive: replaced whole or not at all, folders locked by one process, disks that fill up. No torch."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import InputError


class FolderLock:
    """A lock on a job folder that the operating system releases when its holder dies, however it dies."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "lock"
        self._file: IO[bytes] | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """Whether the lock is ours now. `patience` seconds outlast a watcher that only looks."""
        deadline = time.monotonic() + patience
        try:
            file = open(self.path, "ab")  # noqa: SIM115  (kept open as long as the lock is held)
        except OSError as error:
            raise InputError(f"The job folder {self.path.parent.name} cannot be written: {reason(error)}.") from None
        while not _lock(file):
            if time.monotonic() >= deadline:
                file.close()
                return False
            time.sleep(0.05)
        self._file = file
        return True

    def release(self) -> None:
        """Let go; closing the file does it on every system."""
        if self._file:
            self._file.close()
            self._file = None


if sys.platform == "win32":

    def _lock(file: IO[bytes]) -> bool:
        import msvcrt

        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:

    def _lock(file: IO[bytes]) -> bool:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OSError: the disk is full or gone; a former file is still there.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        replace_file(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def replace_file(part: Path, path: Path, patience: float = 2.0) -> None:
    """os.replace, tried again for a while: on Windows it fails while somebody reads the old file."""
    deadline = time.monotonic() + patience
    while True:
        try:
            os.replace(part, path)
            return
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def reason(error: OSError) -> str:
    """What is wrong with a disk, for the user, without a path."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "the disk is full; free some space (the last checkpoint is kept)"
    return error.strerror or type(error).__name__
