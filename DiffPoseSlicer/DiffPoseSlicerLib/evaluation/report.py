"""A registration as one page for the patient's file: pictures, how far to trust it, the geometry and its sources.

The page names no patient unless asked to, and needs nothing but itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import poses_from_json
from ..geometry.se3 import Array
from ..imaging.ct import CTVolume
from ..imaging.xray import XrayImage
from ..page import document, facts, figure, table
from ..registration.result import RegistrationResult, odds
from ..rendering.renderer import render
from .overlay import overlay_image, stretched

# Longer side of a picture in the page, pixels.
_PICTURE = 480


def write_report(
    path: str | os.PathLike[str],
    ct: CTVolume,
    xrays: XrayImage | Sequence[XrayImage],
    result: RegistrationResult | dict[str, Any],
    *,
    patient: str = "",
    device: str = "auto",
) -> None:
    """Write the page of a registration.

    Args:
        path: the .html file.
        ct, xrays: what was registered.
        result: what came out, or the content of its result.json.
        patient: a name or number to print; without one the page names nobody.
        device: "auto", "cpu" or "cuda:N".

    Raises:
        InputError: the result is of another number of X-rays, or is no result.
        OSError: the file cannot be written.
    """
    text = report(ct, [xrays] if isinstance(xrays, XrayImage) else xrays, result, patient=patient, device=device)
    Path(path).write_text(text, encoding="utf-8")


def report(
    ct: CTVolume,
    xrays: Sequence[XrayImage],
    result: RegistrationResult | dict[str, Any],
    *,
    patient: str = "",
    device: str = "auto",
) -> str:
    """The page's text; arguments and errors as of :func:`write_report`."""
    data = result if isinstance(result, dict) else result.to_json()
    poses = poses_from_json(data, "result")
    if len(poses) != len(xrays):
        raise InputError(f"The result has {len(poses)} views and there are {len(xrays)} X-rays: give one for each.")
    parts = [f"<p>Patient: {escape(patient)}</p>" if patient else "", _trust(data)]
    for number, (xray, pose) in enumerate(zip(xrays, poses, strict=True)):
        title = f"X-ray {number + 1}" if len(xrays) > 1 else "X-ray"
        fitted = data["views"][number].get("carm") if "views" in data else None
        carm = CArm.from_json(fitted) if fitted else xray.carm
        drr = render(ct, carm, pose, device=device)
        parts += [
            f"<h2>{title}</h2>",
            figure(_grey(xray.pixels, xray.mask), "the X-ray (bone bright)"),
            figure(
                _small(overlay_image(xray.pixels, drr, xray.mask)), "with the edges of the CT's rendering in orange"
            ),
            figure(_grey(drr, None), "the CT rendered at the pose found"),
            figure(_checkered(xray.pixels, drr, xray.mask), "squares of the X-ray and of the rendering by turns"),
            "<h3>Geometry, and where it comes from</h3>",
            facts(_geometry(xray) + (_estimated(carm) if fitted else [])),
            *(f'<p class="small">{escape(note)}</p>' for note in xray.notes),
        ]
    parts += ["<h2>The pose found</h2>", _pose(data, poses[0].camera_to_ras), "<h2>How it was found</h2>"]
    parts.append(facts(_how(data, ct)))
    parts.append(
        '<p class="small">Research software, not for clinical use. '
        f"Made {datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')}.</p>"
    )
    return document("Registration of a fluoroscopy to a CT", *parts)


def _trust(data: dict[str, Any]) -> str:
    trust = data.get("trust") or {}
    reasons = [str(reason) for reason in trust.get("reasons", ())]
    word = "Trusted" if trust.get("trusted") else "Not trusted"
    kind = "yes" if trust.get("trusted") else "no"
    rows = [
        ("Probability of success", odds(trust["probability"]) if "probability" in trust else "not stated"),
        ("Error stays below, in 9 of 10 such images", _bound(trust, data.get("expectedErrorMm"))),
        ("Similarity", ", ".join(f"{v['similarity']:.3f}" for v in data["views"] if v.get("similarity") is not None)),
    ]
    listed = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    warned = "".join(f'<p class="no">Warning: {escape(str(w))}</p>' for w in data.get("warnings", ()))
    return f'<p class="{kind}"><b>{word}.</b></p>' + (f"<ul>{listed}</ul>" if listed else "") + warned + facts(rows)


def _bound(trust: dict[str, Any], error: float | None) -> str:
    if error is None:
        return "not stated"
    return f"{error:.2f} mm" + ("" if trust.get("trusted") else ", if the pose is right at all")


def _geometry(xray: XrayImage) -> list[tuple[str, str]]:
    if xray.facts:
        return [(fact.name, f"{fact.value} — {fact.source}") for fact in xray.facts]
    carm = xray.carm
    row, column = carm.pixel_spacing
    stored = "as the camera sees it"
    if carm.mirrored or carm.rotation:
        stored = " and ".join((["mirrored"] if carm.mirrored else []) + [f"turned by {carm.rotation}°"])
    return [
        ("Source to detector", f"{carm.source_to_detector:g} mm — given"),
        ("Image", f"{carm.image_size[0]} x {carm.image_size[1]} pixels (rows x columns) — the image"),
        ("Pixel spacing", f"{row:g} x {column:g} mm at the detector — given"),
        ("Principal point", f"column {carm.principal_point[0]:g}, row {carm.principal_point[1]:g} — given"),
        ("Stored", stored),
    ]


def _estimated(carm: CArm) -> list[tuple[str, str]]:
    """What was found of the geometry along with the pose."""
    u, v = carm.principal_point
    return [
        ("Source to detector, found", f"{carm.source_to_detector:.1f} mm — estimated with the pose"),
        ("Principal point, found", f"column {u:.2f}, row {v:.2f} — estimated with the pose"),
    ]


def _pose(data: dict[str, Any], camera_to_ras: Array) -> str:
    source, beam = camera_to_ras[:3, 3], camera_to_ras[:3, 2]
    rows = [
        ("Source, RAS", " ".join(f"{v:.1f}" for v in source) + " mm"),
        ("Beam's direction, RAS", " ".join(f"{v:.4f}" for v in beam)),
    ]
    covariance = np.asarray(data.get("covariance", np.nan), float)
    if covariance.shape == (6, 6) and np.isfinite(covariance).all() and covariance[0, 0] < 10:
        sigma = np.sqrt(np.maximum(np.diag(covariance), 0))
        rows.append(
            (
                "Spread of rotation (right, down, depth)",
                " / ".join(f"{v:.3f}" for v in np.degrees(sigma[:3])) + " degrees",
            )
        )
        rows.append(("Spread of shift (right, down, depth)", " / ".join(f"{v:.2f}" for v in sigma[3:]) + " mm"))
    lines = [[axis, *(f"{v:.4f}" for v in line)] for axis, line in zip("RAS", camera_to_ras[:3], strict=True)]
    matrix = table(("", "right", "down", "beam", "source, mm"), lines)
    return facts(rows) + "<p>The camera's axes and the source, in RAS:</p>" + matrix


def _how(data: dict[str, Any], ct: CTVolume) -> list[tuple[str, str]]:
    rows = [
        ("Started from", str(data.get("start", "not stated"))),
        ("Work", f"{data.get('iterations', '?')} iterations, {float(data.get('seconds', 0)):.2f} s"),
        ("Ended because", str(data.get("stopped", "not stated"))),
        ("CT", f"{' x '.join(map(str, ct.hu.shape[::-1]))} voxels of {' x '.join(f'{s:.3g}' for s in ct.spacing)} mm"),
        ("CT's fingerprint", ct.fingerprint[:16]),
        ("Versions", ", ".join(f"{k} {v}" for k, v in data.get("versions", {}).items())),
    ]
    others = data.get("hypotheses", [])[1:]
    if others:
        words = "; ".join(f"similarity {h['similarity']:.3f}, share {h['probability']:.0%}" for h in others)
        rows.insert(3, ("Other poses that were found", words))
    return rows


def _grey(image: NDArray, mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    inside = mask if mask is not None and mask.any() else None
    grey = stretched(image, inside) * (1 if mask is None else mask)
    return _small(np.rint(255 * grey).astype(np.uint8))


def _checkered(image: NDArray, drr: NDArray, mask: NDArray[np.bool_] | None, squares: int = 8) -> NDArray[np.uint8]:
    rows, columns = image.shape
    v, u = np.mgrid[0:rows, 0:columns]
    side = max(rows, columns) / squares
    ours = ((v // side + u // side) % 2).astype(bool)
    inside = mask if mask is not None and mask.any() else None
    mixed = np.where(ours, stretched(drr), stretched(image, inside))
    return _small(np.rint(255 * mixed).astype(np.uint8))


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means over blocks, so that no side is much longer than a picture's."""
    factor = max(1, round(max(picture.shape[:2]) / _PICTURE))
    if factor == 1:
        return picture
    rows, columns = picture.shape[0] // factor, picture.shape[1] // factor
    blocks = picture[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, -1)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8).reshape(rows, columns, *picture.shape[2:])
