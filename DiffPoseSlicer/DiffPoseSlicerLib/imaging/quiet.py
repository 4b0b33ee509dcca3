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
    """Silence file descriptor 2 while a native reader works; what matters comes back as an exception.

    Nested use and use from several threads are fine. Where there is no descriptor 2 (a Windows program without a
    console) nothing is done.
    """
    global _depth
    with _lock:
        if _depth:
            yield
            return
        saved = None
        try:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            try:
                saved = os.dup(2)
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, 2)
                os.close(sink)
            except OSError:
                pass
            _depth = 1
            yield
        finally:
            _depth = 0
            if saved is not None:
                os.dup2(saved, 2)
                os.close(saved)
