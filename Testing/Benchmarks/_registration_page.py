"""The page of the registration's benchmark: tables by factor, success by start distance, errors and seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from DiffPoseSlicerLib.evaluation.metrics import wilson_interval
from DiffPoseSlicerLib.page import Line, document, plot, table

_HEAD = (
    *("case", "n", "success", "95 % interval", "< 5 mm", "mTRE 50 / 95 %", "mRPD 50 / 95 %", "seconds 50 / 95 %"),
    "trusted, of successes and failures",
)
_TITLES = {
    "near": "Starts up to 20 degrees and 40 mm off on each axis",
    "far": "Starts up to 35 degrees and 60 mm off on each axis",
    "search": "Search over ±45 degrees and ±75 mm, no start",
    "any": "Search, the view unknown too",
    "landmarks": "Start from six landmark pairs, 3 mm noise, one grossly wrong",
    "network": "Start from a prepared model",
    "peers": "Beside Adam on multiscale correlation through nanodrr, on the same cases",
}


def write_page(path: Path, rows: list[dict]) -> None:
    """Write the page of all rows so far."""
    parts = [
        "<p>X-rays by plastimatch from the whole CT; the registration is given a copy 15 mm shorter at each cut face. "
        "Success: mTRE below 1 mm (2 mm on the pelvis of 3 mm voxels); with a wrong distance, deformed tissue or a "
        "moved bone, mRPD below it.</p>"
    ]
    for mode, title in _TITLES.items():
        of_mode = [row for row in rows if row["mode"] == mode]
        if of_mode:
            parts.append(f"<h2>{title}</h2>" + table(_HEAD, [_cells(row) for row in of_mode]))
    parts += [_by_start(rows), _errors(rows), _seconds(rows)]
    path.write_text(document("Registration: success and speed", *filter(None, parts)), encoding="utf-8")


def _cells(row: dict) -> list[str]:
    low, high = row["wilson"]
    pair = lambda key: f"{row[key]['50']:.2f} / {row[key]['95']:.2f}"  # noqa: E731
    method = "" if row["method"] == "ours" else f", {row['method']}"
    return [
        f"{row['ct']}, {row['factor']}{method}",
        str(row["cases"]),
        f"{100 * row['success']:.1f} %",
        f"{100 * low:.1f}-{100 * high:.1f} %",
        f"{100 * row['below5mm']:.0f} %",
        f"{pair('mtre')} mm",
        f"{pair('mrpd')} mm",
        pair("seconds"),
        f"{row['trusted']['good']} of {row['good']}, {row['trusted']['failed']} of {row['cases'] - row['good']}",
    ]


def _by_start(rows: list[dict]) -> str:
    """Success in classes of the start's distance, clean cases of near and far starts together."""
    edges = np.array([0, 20, 30, 40, 50, 60, 80, 120])
    lines = []
    for name in sorted({row["ct"] for row in rows}):
        clean = [r for r in rows if r["ct"] == name and r["mode"] in ("near", "far") and r["factor"] == "clean"]
        pairs = [(c["start"], c["mtre"] < row["limit"]) for row in clean for c in row["results"]]
        if not pairs:
            continue
        start, good = np.array(pairs).T
        place = np.digitize(start, edges)
        x, y, low, high = [], [], [], []
        for n in range(1, len(edges)):
            here = good[place == n]
            if len(here):
                interval = wilson_interval(int(here.sum()), len(here))
                x.append(float(start[place == n].mean()))
                y.append(100 * float(here.mean()))
                low.append(100 * interval[0])
                high.append(100 * interval[1])
        lines.append(Line(name, x, y, low, high, marks=True))
    if not lines:
        return ""
    return "<h2>Success by distance of the start (clean)</h2>" + plot(
        lines,
        "mTRE of the start, mm",
        "success, % (with 95 % interval)",
        x_range=(0, 120),
        y_range=(0, 100),
        x_ticks=(0, 20, 40, 60, 80, 100, 120),
        y_ticks=(0, 25, 50, 75, 100),
    )


def _errors(rows: list[dict]) -> str:
    """Distribution of the errors, clean and stressed, over all CTs."""
    lines = []
    for mode in ("near", "far", "search"):
        for label, wanted in (("clean", True), ("stressed", False)):
            found = sorted(
                c["mtre"]
                for row in rows
                if row["mode"] == mode and (row["factor"] == "clean") is wanted
                for c in row["results"]
            )
            if found:
                lines.append(Line(f"{mode}, {label}", found, np.linspace(0, 100, len(found)).tolist()))
    if not lines:
        return ""
    return "<h2>Errors</h2>" + plot(
        lines,
        "mTRE, mm (logarithmic)",
        "cases below, %",
        x_range=(0.02, 200),
        y_range=(0, 100),
        x_ticks=(0.02, 0.1, 0.5, 1, 5, 20, 100),
        y_ticks=(0, 25, 50, 75, 100),
        logarithmic=True,
    )


def _seconds(rows: list[dict]) -> str:
    """Distribution of the seconds, by mode and method."""
    lines = []
    for mode, method in sorted({(row["mode"], row["method"]) for row in rows}):
        took = sorted(c["seconds"] for r in rows if (r["mode"], r["method"]) == (mode, method) for c in r["results"])
        words = mode if method == "ours" else f"{mode}, {method}"
        lines.append(Line(words, took, np.linspace(0, 100, len(took)).tolist()))
    return "<h2>Time</h2>" + plot(
        lines,
        "seconds (logarithmic)",
        "cases done, %",
        x_range=(0.05, 200),
        y_range=(0, 100),
        x_ticks=(0.05, 0.2, 1, 5, 20, 100),
        y_ticks=(0, 25, 50, 75, 100),
        logarithmic=True,
    )
