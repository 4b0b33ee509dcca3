"""Say what this machine has and lacks, or what is understood of a CT, an X-ray or a JSON file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("files", metavar="FILE", nargs="*", help="files or DICOM folders to look at")
    parser.add_argument("--carm", metavar="F", help="carm.json of the X-rays among them")


def run(args: argparse.Namespace) -> None:
    """Print one line a fact."""
    if not args.files:
        from ..engine.doctor import machine

        print("\n".join(machine()))
    for number, file in enumerate(args.files):
        if len(args.files) > 1:
            print(("\n" if number else "") + Path(file).name)
        print("\n".join(understood(file, args.carm)))


def understood(file: str, carm_file: str | None = None) -> list[str]:
    """What is understood of a file, one line a fact.

    Raises:
        InputError: it is missing, or nothing is understood.
    """
    path = Path(file)
    if not path.exists():
        raise InputError(f"The file {path.name} does not exist; check the path.")
    if path.suffix.lower() == ".json":
        return _json(path)
    if carm_file is not None:
        from ..geometry.carm import CArm
        from ..imaging.xray import XrayImage

        return _xray(XrayImage.read(path, CArm.read(carm_file)))
    try:
        return _ct(path)
    except InputError as no_ct:
        return _without_geometry(path, no_ct)


def _json(path: Path) -> list[str]:
    from ..geometry.carm import CArm
    from ..geometry.files import read_json
    from ..geometry.pose import poses_from_json

    data = read_json(path, "file")
    if "sourceToDetector" in data:
        carm = CArm.from_json(data)
        (rows, columns), (row, column) = carm.image_size, carm.pixel_spacing
        return [
            "C-arm geometry",
            f"image            {rows} rows x {columns} columns of {row:.4g} x {column:.4g} mm",
            f"field of view    {rows * row:.1f} x {columns * column:.1f} mm at the detector",
            f"source           {carm.source_to_detector:g} mm from the detector, {carm.source_to_isocenter:g} mm from "
            "the isocentre",
            f"principal point  column {carm.principal_point[0]:g}, row {carm.principal_point[1]:g}",
            f"intensity        {carm.intensity or 'not stated: decided from each image'}",
            f"stored           {'mirrored, ' if carm.mirrored else ''}turned by {carm.rotation} degrees",
        ]
    poses = poses_from_json(data, f"file {path.name}")
    kind = "registration result" if "trust" in data else "pose file"
    lines = [f"{kind}, {len(poses)} view{'s' if len(poses) > 1 else ''}"]
    for pose in poses:
        x, y, z = pose.camera_to_ras[:3, 3]
        lines.append(f"source at        R {x:.1f}, A {y:.1f}, S {z:.1f} mm")
        x, y, z = pose.camera_to_ras[:3, 2]
        lines.append(f"beam towards     R {x:.3f}, A {y:.3f}, S {z:.3f}")
    return lines


def _ct(path: Path) -> list[str]:
    from ..imaging.ct import CTVolume

    ct = CTVolume.read(path)
    (nk, nj, ni), spacing = ct.hu.shape, ct.spacing
    size = spacing * [ni, nj, nk]
    faces = ("i-", "i+", "j-", "j+", "k-", "k+")
    cut = [name for name, ends in zip(faces, ct.level(4.0).cut_faces, strict=True) if ends]
    return [
        "CT",
        f"voxels           {ni} x {nj} x {nk} of {spacing[0]:.4g} x {spacing[1]:.4g} x {spacing[2]:.4g} mm",
        f"size             {size[0]:.1f} x {size[1]:.1f} x {size[2]:.1f} mm",
        f"centre           R {ct.center[0]:.1f}, A {ct.center[1]:.1f}, S {ct.center[2]:.1f} mm",
        f"Hounsfield units {ct.hu.min()} to {ct.hu.max()}",
        f"ends in tissue   {'at ' + ', '.join(cut) if cut else 'nowhere'}",
        *(f"note             {note}" for note in ct.notes),
    ]


def _xray(xray: Any) -> list[str]:
    rows, columns = xray.pixels.shape
    counted = 100.0 if xray.mask is None else 100.0 * xray.mask.mean()
    return [
        "X-ray",
        f"image            {rows} rows x {columns} columns",
        f"intensity        {xray.carm.intensity}",
        f"pixels that count {counted:.1f} %",
        *(f"note             {note}" for note in xray.notes),
    ]


def _without_geometry(path: Path, no_ct: InputError) -> list[str]:
    """An image file that is no CT: an X-ray whose geometry is not known yet."""
    from ..imaging.xray import GEOMETRY_NEEDED, read_pixels

    if path.is_dir():
        raise no_ct
    try:
        stored, notes = read_pixels(path)
    except InputError:
        raise no_ct from None
    if stored.ndim != 2:
        raise no_ct
    return [
        "X-ray without geometry",
        f"image            {stored.shape[0]} rows x {stored.shape[1]} columns, values {stored.min()} to {stored.max()}",
        f"to use it        {GEOMETRY_NEEDED}; with doctor: --carm F",
        *(f"note             {note}" for note in notes),
    ]
