"""Keeps native libraries (ITK, GDCM, libtiff, libpng) from writing to the user's terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_lock = threading.RLock()
_depth = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the file descriptors 1 and 2 while a native reader works; what matters comes back as an exception.

    Nested use and use from several threads are fine. A descriptor that does not exist (a Windows program without a
    console) is left alone.
    """
    global _depth
    with _lock:
        if _depth:
            yield
            return
        saved: dict[int, int] = {}
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            for descriptor in (1, 2):
                with contextlib.suppress(OSError):
                    copy = os.dup(descriptor)
                    sink = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(sink, descriptor)
                    os.close(sink)
                    saved[descriptor] = copy
            _depth = 1
            yield
        finally:
            _depth = 0
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)
