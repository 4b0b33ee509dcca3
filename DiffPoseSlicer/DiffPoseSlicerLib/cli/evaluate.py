"""Compare a result with the true pose: mTRE, mRPD, mPE, rotation and translation error."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.files import numbers, read_json, write_json
from ..geometry.pose import poses_from_json
from . import options
from .points import read_points


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("result", metavar="RESULT", help="result.json, or any pose file")
    parser.add_argument("--truth", required=True, metavar="F", help="truth.json")
    parser.add_argument(
        "--points", metavar="F", help='where to measure: {"points": [[R, A, S], ...]} or Slicer markups'
    )
    parser.add_argument("--carm", metavar="F", help="carm.json for mRPD and mPE (default: the one in the truth file)")
    parser.add_argument("-o", "--output", metavar="F", help="write the figures as JSON, too")


def run(args: argparse.Namespace) -> None:
    """Compare and print, one figure a line."""
    target = options.output_file(args.output, (".json",)) if args.output else None
    result, truth = read_json(args.result, "result file"), read_json(args.truth, "truth file")
    estimated, true = poses_from_json(result, "result file"), poses_from_json(truth, "truth file")
    if len(estimated) != len(true):
        raise InputError(f"The result has {len(estimated)} views and the truth {len(true)}; they must be the same.")
    points, center = _where(args.points, result, truth)
    carms = _carms(args.carm, truth, len(true))
    fitted = [CArm.from_json(v["carm"], "C-arm in the result") if v.get("carm") else None for v in _views(result)]
    views = [
        _errors(e, t, points, center, c, f or c) for e, t, c, f in zip(estimated, true, carms, fitted, strict=True)
    ]
    for number, view in enumerate(views):
        if len(views) > 1:
            print(f"View {number}")
        _print(view)
    if carms[0] is None:
        print("mRPD, mPE        not computed: give the C-arm with --carm")
    if target:
        write_json(target, {"views": views, "points": len(points), "center": center.tolist()})


def _where(file: str | None, result: dict[str, Any], truth: dict[str, Any]) -> tuple[Any, Any]:
    """Points to measure at, and the centre translations are stated at."""
    from ..evaluation.metrics import default_points

    holder = next((d for d in (truth, result) if "center" in d), None)
    if file is not None:
        points = read_points(file)
        return points, points.mean(0) if holder is None else np.array(numbers(holder, "center", 3, "file"))
    if holder is None:
        raise InputError("Neither file has a 'center' to measure about; give points with --points.")
    center = np.array(numbers(holder, "center", 3, "file"))
    return default_points(center), center


def _views(result: dict[str, Any]) -> list[dict[str, Any]]:
    return list(result.get("views", [result]))


def _carms(file: str | None, truth: dict[str, Any], count: int) -> list[Any]:
    if file is not None:
        return [CArm.read(file)] * count
    views = truth.get("views", [truth])
    stated = [view.get("carm", truth.get("carm")) for view in views]
    return [CArm.from_json(c, "C-arm in the truth file") if isinstance(c, dict) else None for c in stated]


def _errors(estimated: Any, true: Any, points: Any, center: Any, carm: Any, fitted: Any) -> dict[str, Any]:
    """Errors of a view; `carm` is its true camera, `fitted` the one the estimated pose goes with."""
    from ..evaluation import metrics

    shift = metrics.translation_error(estimated, true, center)
    errors: dict[str, Any] = {"mTRE": metrics.mtre(estimated, true, points)}
    if carm is not None:
        for name, measure in (("mRPD", metrics.mrpd), ("mPE", metrics.mpe)):
            value = measure(estimated, true, points, fitted, carm)
            errors[name] = value if np.isfinite(value) else None
    errors["rotationErrorDegrees"] = metrics.rotation_error(estimated, true)
    errors["translationErrorMm"] = float(np.linalg.norm(shift))
    errors["translationRightDownDepthMm"] = shift.tolist()
    return errors


def _print(errors: dict[str, Any]) -> None:
    for name in ("mTRE", "mRPD", "mPE"):
        if name in errors:
            value = errors[name]
            print(
                f"{name:<16} " + ("not defined: points lie behind the source" if value is None else f"{value:.4f} mm")
            )
    print(f"{'rotation':<16} {errors['rotationErrorDegrees']:.4f} degrees")
    right, down, depth = errors["translationRightDownDepthMm"]
    each = f"right {right:.4f}, down {down:.4f}, depth {depth:.4f}"
    print(f"{'translation':<16} {errors['translationErrorMm']:.4f} mm ({each})")
