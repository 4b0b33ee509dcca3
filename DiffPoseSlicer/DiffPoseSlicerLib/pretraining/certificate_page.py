"""A certificate as one page of HTML that needs nothing else: figures, histogram and capture map."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from ..page import BAD, GOOD, document, facts, table


def page(figures: dict[str, Any]) -> str:
    """The text of certificate.html."""
    low, high = figures["interval"]
    verdict = (
        '<p class="yes"><b>Certified.</b></p>'
        if figures["certified"]
        else f'<p class="no"><b>Not certified:</b> {escape("; ".join(figures["reasons"]))}.</p>'
    )
    task = figures["task"]
    rows, columns = task["carm"]["imageSize"]
    known = [
        ("Success rate", f"{figures['rate']:.1%} ({low:.1%} to {high:.1%} with 95 % confidence)"),
        ("Cases", f"{figures['successes']} of {figures['cases']} within {figures['successMm']:g} mm (mTRE)"),
        ("Trust", _trust(figures)),
        ("View", f"{task['view']}, LAO/RAO {task['laoRao']:g}°, CRA/CAU {task['cranCaud']:g}°"),
        ("Rotation about right, down, depth", ", ".join(f"±{r:g}°" for r in task["rotation"])),
        ("Shift to right, down, depth", ", ".join(f"±{t:g} mm" for t in task["translation"])),
        ("C-arm", f"{task['carm']['sourceToDetector']:g} mm to the detector, {rows} x {columns} pixels"),
        ("CT fingerprint", figures["fingerprint"][:16]),
        ("Training", _training(figures["training"])),
        ("Versions", ", ".join(f"{k} {v}" for k, v in figures["versions"].items())),
        ("Made", figures["date"]),
    ]
    percentiles = list(figures["errorMm"])
    lines = [
        [name, *(f"{figures[key][p]:.2f}" for p in percentiles)]
        for name, key in (
            ("Error after registration, mm", "errorMm"),
            ("Error of the network alone, mm", "networkMm"),
            ("Time, s", "seconds"),
        )
    ]
    return document(
        "Certificate of a pose model",
        verdict,
        facts(known),
        "<h2>Percentiles</h2>",
        table(["", *(f"{p} %" for p in percentiles)], lines),
        "<h2>Errors after registration</h2>",
        _histogram(figures["errors"]),
        "<h2>Where it succeeds</h2><p>Successes of cases, by the angle from the view (rows) and the depth from the "
        "isocentre (columns).</p>",
        _map(figures["captureMap"]),
        "<p>Measured on simulated fluoroscopies of this CT. It says how often the method finds the pose in images like "
        "these, not whether a given result is right.</p>",
    )


def _training(training: dict[str, Any]) -> str:
    preset = f"preset {training['preset']}, " if training.get("preset") else ""
    error = training.get("validationMtreMm")
    first = "" if error is None else f", median error of the first guess on validation images {error:.1f} mm"
    return f"{preset}{training['step']} steps in {training['seconds']:.0f} s{first}"


def _trust(figures: dict[str, Any]) -> str:
    trusted, good = figures["trusted"], figures["successes"]
    failures = figures["cases"] - good
    return (
        f"{trusted['ofSuccesses']} of the {good} that succeeded and {trusted['ofFailures']} of the {failures} that "
        "failed called themselves trusted"
    )


def _histogram(errors: list[float]) -> str:
    """Bars over logarithmic bins from 0.06 to 100 mm, with an edge at the 1 mm that success means."""
    edges = 10 ** np.arange(-1.25, 2.0625, 0.125)
    bins = len(edges) - 1
    counts, _ = np.histogram(np.clip(errors, edges[0], edges[-1]), edges)
    width, height, step = 572, 160, 572 / bins
    bars = "".join(
        f'<rect x="{i * step + 1:.1f}" y="{height - c / max(counts.max(), 1) * height:.1f}" width="{step - 2:.1f}" '
        f'height="{c / max(counts.max(), 1) * height:.1f}" fill="{GOOD if edges[i] < 0.999 else BAD}">'
        f"<title>{edges[i]:.2g} to {edges[i + 1]:.2g} mm: {c}</title></rect>"
        for i, c in enumerate(counts)
    )
    labels = "".join(
        f'<text x="{np.interp(np.log(v), np.log(edges), np.arange(bins + 1)) * step:.0f}" y="{height + 16}" '
        f'font-size="12" text-anchor="middle">{v:g}{" mm" if v == 1 else ""}</text>'
        for v in (0.1, 0.3, 1, 3, 10, 30)
    )
    return (
        f'<svg width="{width}" height="{height + 24}" role="img" aria-label="histogram of errors in mm">{bars}{labels}'
        "</svg>"
    )


def _map(capture: dict[str, Any]) -> str:
    depths, angles = capture["depthMm"], capture["angleDegrees"]
    head = "".join(f"<th>{a:g} to {b:g} mm</th>" for a, b in pairwise(depths))
    body = ""
    for row, (low, high) in enumerate(pairwise(angles)):
        cells = ""
        for good, count in zip(capture["successes"][row], capture["cases"][row]):
            # From orange (none) over white (half) to blue (all).
            pale = 95 - 25 * abs(2 * good / count - 1) if count else 100
            shade = f' style="background:hsl({205 if 2 * good > count else 28} 80% {pale:.0f}%)"'
            cells += f"<td{shade}>{good} of {count}</td>" if count else "<td></td>"
        body += f"<tr><td>{low:.0f} to {high:.0f}°</td>{cells}</tr>"
    return f"<table><tr><th></th>{head}</tr>{body}</table>"
