"""Running unit tests inside the application."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Sequence


def exitSuccess() -> None:
    """The test passed."""


def exitFailure(message: str = "") -> None:
    """The test failed."""
    raise Exception(message)


def runUnitTest(path: str | Sequence[str], testname: str) -> None:
    """Run the tests ``testname`` (a dotted name) found in ``path``."""
    sys.path.extend([path] if isinstance(path, str) else path)
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestLoader().loadTestsFromName(testname))
    if not result.wasSuccessful():
        exitFailure(f"{testname} failed")
