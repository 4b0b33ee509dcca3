"""DICOM datasets, read so that a damaged or odd file costs one sentence and nothing else.

Every number a file offers is checked for plausibility before it is believed; enhanced multi-frame objects are read
through the same few functions as plain ones.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .quiet import quiet

_SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """pydicom's warnings and log lines are for developers: values are checked here."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def is_dicom(path: Path) -> bool:
    """Whether a file looks like DICOM, with or without the 128-byte preamble."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return True
    # Without a preamble the first element is in group 0002 or 0008, with a small element number.
    first = head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08", b"\x00\x02") and len(head) > 8
    return first and (path.suffix.lower() in (*_SUFFIXES, "") or head[4:6].isalpha())


def read_dataset(path: Path, what: str, pixels: bool = True, tags: list[str] | None = None) -> Any:
    """A pydicom dataset.

    Args:
        path: The file.
        what: Names it in messages.
        pixels: False: stop before the pixel data.
        tags: Read only these keywords.

    Raises:
        InputError: it cannot be parsed.
    """
    import pydicom

    try:
        with _silent():
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=tags)
            if not len(dataset):
                raise ValueError
            return dataset
    except MemoryError:
        raise InputError(f"The {what} {path.name} is damaged: it announces more data than fits in memory.") from None
    except Exception as error:  # pydicom raises almost anything on damaged bytes
        name = type(error).__name__
        raise InputError(f"The {what} {path.name} is no readable DICOM file ({name}); copy it again.") from None


def get(dataset: Any, keyword: str, default: Any = None) -> Any:
    """The value of an attribute; `default` where it is absent, empty or cannot be converted."""
    try:
        with _silent():
            value = dataset.get(keyword) if hasattr(dataset, "get") else None
    except Exception:  # the value is converted on access, and a damaged one raises almost anything
        return default
    if (
        value is None
        or (isinstance(value, (str, bytes)) and not value)
        or (hasattr(value, "__len__") and not len(value))
    ):
        return default
    return value


def whole(dataset: Any, keyword: str, default: int = 0) -> int:
    """A whole number; `default` where there is none."""
    try:
        return int(get(dataset, keyword, default))
    except (TypeError, ValueError, OverflowError):
        return default


def text(dataset: Any, keyword: str) -> str:
    """A code string in capitals without blanks at its ends; "" where there is none."""
    value = get(dataset, keyword, "")
    return str(value).strip().upper() if not isinstance(value, (list, tuple)) else ""


def floats(value: Any) -> list[float]:
    """Finite numbers out of a single or multiple value; [] if any of it is something else."""
    items = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def tag_name(keyword: str) -> str:
    """ "DistanceSourceToDetector (0018,1110)": how an attribute is named to the user."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


class Lookup:
    """The attributes that hold for one frame: per-frame functional groups first, then shared ones, then the top level.

    Args:
        dataset: As from :func:`read_dataset`.
        frame: Counted from 0.

    Attributes:
        notes: Sentences about values that were not believed.
    """

    def __init__(self, dataset: Any, frame: int = 0) -> None:
        self.dataset, self.frame = dataset, frame
        self.notes: list[str] = []
        self._items: list[Any] = []
        per_frame = get(dataset, "PerFrameFunctionalGroupsSequence", [])
        shared = get(dataset, "SharedFunctionalGroupsSequence", [])
        for groups in (per_frame[frame : frame + 1], shared[:1]):
            for group in groups:
                self._items += self._macros(group)
        self._items.append(dataset)

    @staticmethod
    def _macros(group: Any) -> list[Any]:
        """First items of the sequences in a functional group: each macro is one sequence of one item."""
        items = []
        try:
            with _silent():
                for element in group:
                    if element.VR == "SQ" and len(element.value):
                        items.append(element.value[0])
        except Exception:  # a damaged group counts as absent
            return items
        return items

    def value(self, keyword: str) -> Any:
        """The attribute where it holds for the frame, or None."""
        for item in self._items:
            found = get(item, keyword)
            if found is not None:
                return found
        return None

    def text(self, keyword: str) -> str:
        """A code string in capitals; "" where there is none."""
        value = self.value(keyword)
        return "" if value is None or isinstance(value, (list, tuple)) else str(value).strip().upper()

    def numbers(self, keyword: str, count: int, low: float, high: float) -> list[float] | None:
        """`count` numbers within [low, high]; None where they are absent or not plausible (which is noted)."""
        value = self.value(keyword)
        if value is None:
            return None
        found = floats(value)
        if len(found) != count or not all(low <= number <= high for number in found):
            shown = ", ".join(f"{n:g}" for n in found[:4]) if found else "not a number"
            self.notes.append(f"{tag_name(keyword)} is {shown}: not plausible, counted as missing.")
            return None
        return found

    def number(self, keyword: str, low: float, high: float) -> float | None:
        """One plausible number, or None."""
        found = self.numbers(keyword, 1, low, high)
        return None if found is None else found[0]
