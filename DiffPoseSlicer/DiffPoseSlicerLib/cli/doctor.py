"""Say what this machine has and lacks, or what is understood of a CT, an X-ray or a JSON file."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("files", metavar="FILE", nargs="*", help="files or DICOM folders to look at")
    parser.add_argument("--carm", metavar="F", help=f"{options.CARM_SOURCES} or preset:NAME, of the X-rays among them")


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
    if path.suffix.lower() == ".json":
        return _json(path)
    from ..imaging.carm_sources import read_carm
    from ..imaging.understanding import describe_file

    return describe_file(path, None if carm_file is None else read_carm(carm_file, path))


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
