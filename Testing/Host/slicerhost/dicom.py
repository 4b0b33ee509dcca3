"""``slicer.dicomDatabase``: looks up instances and tags among files that a test adds."""

from __future__ import annotations

from pathlib import Path

import pydicom


class DicomDatabase:
    """The part of ctkDICOMDatabase that leads from a node's ``DICOM.instanceUIDs`` to files and their tags."""

    isOpen = True

    def __init__(self) -> None:
        self._files: dict[str, str] = {}

    def add(self, path: str | Path) -> str:
        """Host only: make a file known; returns its SOP Instance UID."""
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        self._files[uid] = str(path)
        return uid

    def clear(self) -> None:
        """Host only: forget all files."""
        self._files.clear()

    def fileForInstance(self, uid: str) -> str:
        return self._files.get(uid, "")

    def instanceForFile(self, path: str) -> str:
        return next((uid for uid, file in self._files.items() if file == str(path)), "")

    def fileValue(self, path: str, tag: str) -> str:
        """A tag's value as text; the tag is written "0018,1110"."""
        element = pydicom.dcmread(path, stop_before_pixels=True).get(pydicom.tag.Tag(*tag.split(",")))
        if element is None:
            return ""
        values = element.value if element.VM > 1 else [element.value]
        return "\\".join(map(str, values))

    def instanceValue(self, uid: str, tag: str) -> str:
        return self.fileValue(self._files[uid], tag) if uid in self._files else ""
