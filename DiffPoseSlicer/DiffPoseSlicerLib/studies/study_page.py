"""A study as one page: how often and how well each method works, curves, and the worst cases as pictures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.curves import calibration_error, capture_range, reliability, success_curve
from ..evaluation.metrics import wilson_interval
from ..evaluation.overlay import overlay_image
from ..geometry.pose import Pose
from ..page import Line, document, facts, figure, plot, table
from ..registration.versions import versions
from .methods import METHODS
from .plan import Case, Study
from .problems import WORKSHOP
from .run import pose_of

Row = dict[str, Any]
_THRESHOLDS = np.geomspace(0.1, 100, 61)
_WORST = 2
# Bands of more lines than these hide each other.
_BANDS = 4


def write_study_page(path: Path, study: Study, folder: Path, rows: list[Row], pictures: bool = True) -> None:
    """Write the page of a study's rows; pictures take a rendering or two each."""
    path.write_text(study_page(study, folder, rows, pictures), encoding="utf-8")


def study_page(study: Study, folder: Path, rows: list[Row], pictures: bool = True) -> str:
    """The page's text."""
    names = [name for name in study.methods if any(row["method"] == name for row in rows)]
    expected = sum(len(study.methods_of(case)) for case in study.all_cases())
    unfinished = f'<p class="no">Not finished: {len(rows)} of {expected} results.</p>' if len(rows) < expected else ""
    methods = facts([(name, _about(study, name)) for name in names])
    parts = [unfinished, _what(study, rows), "<h2>By method</h2>", methods, _summary(study, rows, names)]
    parts += [
        "<p>Success is an mTRE below the limit; the interval is Wilson's, 95 %. mTRE: mean distance of 50 points about "
        "the CT's centre, in the camera's frame. mRPD: mean distance of the points from the rays through where the "
        "result shows them: what can be seen in one image. Times are of this machine and these processes.</p>",
        "<h2>How many are below an error</h2>",
        _success_plot(rows, names),
        _against_time(study, rows, names),
        _capture(study, rows, names),
        _reliability(study, rows, names),
    ]
    if len({(row["ct"], row["view"], row["factor"], row["start"]) for row in rows}) > 1:
        parts += ["<h2>By CT, view, factor and start</h2>", _details(study, rows, names)]
    parts += ["<h2>As others compute it</h2>", _published(rows, names)]
    if pictures and rows:
        parts += ["<h2>Worst cases</h2>", _worst(study, folder, rows, names)]
    about = {**versions("warp"), "seed": str(study.seed)}
    parts.append(f'<p class="small">{escape(", ".join(f"{k} {v}" for k, v in about.items()))}</p>')
    return document(study.name, *parts)


def summary_lines(study: Study, rows: list[Row]) -> list[str]:
    """The table by method as plain text."""
    names = [name for name in study.methods if any(row["method"] == name for row in rows)]
    wide = max([len(name) for name in names] + [8])
    lines = [_HEAD, *_summary_rows(study, rows, names)]
    return [f"{line[0]:<{wide}}" + "".join(f"  {word:>14}" for word in line[1:]) for line in lines]


_HEAD = ("method", "cases", "success", "95 % interval", "mTRE median", "mTRE 95 %", "mRPD median", "seconds")


def _summary_rows(study: Study, rows: list[Row], names: list[str]) -> list[list[str]]:
    lines = []
    for name in names:
        own = [row for row in rows if row["method"] == name]
        good = sum(_good(study, row) for row in own)
        low, high = wilson_interval(good, len(own))
        errors, shown = _errors(own), _errors(own, "mrpd")
        seconds = [row["seconds"] for row in own if row.get("seconds") is not None]
        lines.append(
            [
                name,
                str(len(own)),
                f"{100 * good / len(own):.1f} %",
                f"{100 * low:.0f} to {100 * high:.0f} %",
                _mm(np.median(errors)),
                _mm(np.percentile(errors, 95, method="higher")),
                _mm(np.median(shown)),
                f"{np.median(seconds):.2f}" if seconds else "-",
            ]
        )
    return lines


def _summary(study: Study, rows: list[Row], names: list[str]) -> str:
    return table(_HEAD, _summary_rows(study, rows, names))


def _what(study: Study, rows: list[Row]) -> str:
    images = (
        f"real X-rays, {study.dataset['kind']}"
        if study.dataset
        else {
            "plastimatch": "simulated by plastimatch (exact ray tracing, not our renderer), with scatter and noise",
            "own": "simulated by our own renderer, with scatter and noise: not independent of the registration",
        }[study.simulator]
    )
    starts = ", ".join(f"{name} (±{d:g}°, ±{mm:g} mm)" for name, (d, mm) in study.starts.items())
    checked = [row["reprojection"] for row in rows if row.get("reprojection") is not None]
    check = (
        f"at most {max(checked):.2f} pixels from where the stated poses project them" if checked else "none to check"
    )
    return facts(
        [
            ("X-rays", images),
            *([("Landmarks in them", check)] if study.dataset else []),
            ("CTs", ", ".join(study.dataset.get("subjects", ()) if study.dataset else map(_short, study.cts))),
            ("Views and factors", f"{', '.join(study.views)}; {', '.join(study.factors)}"),
            ("Poses", f"within ±{_three(study.rotation)} degrees and ±{_three(study.translation)} mm of the view"),
            ("Starts", starts),
            ("Limits", "1 mm" + "".join(f"; {ct} {mm:g} mm" for ct, mm in study.limits.items() if ct in study.cts)),
        ]
    )


def _about(study: Study, name: str) -> str:
    settings = study.settings(name)
    given = ", ".join(f"{k} {v}" for k, v in settings.items() if k != "models")
    return METHODS[study.use(name)].about + (f" ({given})" if given else "")


def _success_plot(rows: list[Row], names: list[str]) -> str:
    lines = []
    for name in names:
        errors = _errors([row for row in rows if row["method"] == name])
        lines.append(Line(name, _THRESHOLDS.tolist(), success_curve(errors, _THRESHOLDS).tolist()))
    return plot(
        lines,
        "mTRE, mm",
        "share of cases below it",
        x_range=(0.1, 100),
        y_range=(0, 1),
        x_ticks=(0.1, 0.3, 1, 3, 10, 30, 100),
        y_ticks=(0, 0.25, 0.5, 0.75, 1),
        logarithmic=True,
    )


def _against_time(study: Study, rows: list[Row], names: list[str]) -> str:
    """What the success of each method costs."""
    lines = []
    for name in names:
        own = [row for row in rows if row["method"] == name]
        seconds = [row["seconds"] for row in own if row.get("seconds")]
        if seconds:
            share = sum(_good(study, row) for row in own) / len(own)
            lines.append(Line(name, [float(np.median(seconds))], [share], marks=True))
    return "<h2>At what cost</h2>" + plot(
        lines,
        "median seconds of a registration",
        "share of successes",
        x_range=(0.1, 100),
        y_range=(0, 1),
        x_ticks=(0.1, 0.3, 1, 3, 10, 30, 100),
        y_ticks=(0, 0.25, 0.5, 0.75, 1),
        logarithmic=True,
    )


def _capture(study: Study, rows: list[Row], names: list[str]) -> str:
    """Success against how far off the start was; methods without a start are left out."""
    names = [name for name in names if METHODS[study.use(name)].needs_start]
    starts = [row["startMtre"] for row in rows if row.get("startMtre") is not None]
    if not names or not starts:
        return ""
    edges = np.linspace(0, max(max(starts) * 1.001, 1), 7).tolist()
    lines = []
    for name in names:
        own = [row for row in rows if row["method"] == name and row.get("startMtre") is not None]
        # Each case against its own CT's limit.
        judged = [0.0 if _good(study, row) else 2.0 for row in own]
        bins = capture_range([row["startMtre"] for row in own], judged, 1.0, edges)
        intervals = [wilson_interval(good, count) for _, _, good, count in bins]
        middles = [(low + high) / 2 for low, high, _, _ in bins]
        shares = [good / count for _, _, good, count in bins]
        lows, highs = ([interval[end] for interval in intervals] if len(names) <= _BANDS else None for end in (0, 1))
        lines.append(Line(name, middles, shares, lows, highs, marks=True))
    ticks = np.round(edges).tolist()
    return "<h2>From how far off</h2>" + plot(
        lines,
        "error of the start (mTRE), mm",
        "share of successes",
        x_range=(0, edges[-1]),
        y_range=(0, 1),
        x_ticks=ticks,
        y_ticks=(0, 0.25, 0.5, 0.75, 1),
    )


def _reliability(study: Study, rows: list[Row], names: list[str]) -> str:
    """Stated probability of success against the share that succeeded, for methods that state one."""
    lines, words = [], []
    for name in names:
        own = [row for row in rows if row["method"] == name and row.get("probability") is not None]
        stated = [row["probability"] for row in own]
        if not any(stated):
            continue
        good = [_good(study, row) for row in own]
        bins = reliability(stated, good)
        x, y, low, high = (list(column) for column in zip(*bins, strict=True))
        lines.append(Line(name, x, y, low, high, marks=True))
        wrong = sum(row["trusted"] and not g for row, g in zip(own, good, strict=True))
        words.append(
            f"{name}: {sum(row['trusted'] for row in own)} of {len(own)} called trusted, {wrong} of them wrongly; mean "
            f"gap between stated and observed success {calibration_error(stated, good):.3f}."
        )
    if not lines:
        return ""
    return (
        "<h2>Whether stated odds hold</h2>"
        + plot(
            lines,
            "stated probability of success",
            "share that succeeded",
            x_range=(0, 1),
            y_range=(0, 1),
            x_ticks=(0, 0.25, 0.5, 0.75, 1),
            y_ticks=(0, 0.25, 0.5, 0.75, 1),
            diagonal=True,
        )
        + "".join(f"<p>{escape(word)}</p>" for word in words)
    )


def _details(study: Study, rows: list[Row], names: list[str]) -> str:
    keys = list(dict.fromkeys((row["ct"], row["view"], row["factor"], row["start"]) for row in rows))
    lines = []
    for key in keys:
        for name in names:
            own = [
                row
                for row in rows
                if (row["ct"], row["view"], row["factor"], row["start"]) == key and row["method"] == name
            ]
            if own:
                good = sum(_good(study, row) for row in own)
                lines.append(
                    [
                        _short(key[0]),
                        *key[1:],
                        name,
                        f"{good} of {len(own)}",
                        _mm(np.median(_errors(own))),
                        _mm(np.median(_errors(own, "mrpd"))),
                    ]
                )
    return table(("CT", "view", "factor", "start", "method", "success", "mTRE median", "mRPD median"), lines)


def _published(rows: list[Row], names: list[str]) -> str:
    lines = []
    for name in names:
        own = [row for row in rows if row["method"] == name]
        figures = (np.median(_errors(own, key)) for key in ("mtre", "mpe", "diffpose", "xvr"))
        lines.append([name, *map(_mm, figures)])
    return table(("median", "mTRE (ours)", "mPE", "DiffPose's mTRE", "xvr's mTRE"), lines) + (
        "<p>The last two are other groups' formulas on our results, for comparison only: DiffPose multiplies a "
        "distance on the detector, in mm already (mPE), by the pixel spacing; xvr's takes the distance of the "
        "source for a lever.</p>"
    )


def _worst(study: Study, folder: Path, rows: list[Row], names: list[str]) -> str:
    """Each method's worst cases: the X-ray with the edges of what is rendered at the true and at the found pose."""
    parts = []
    for name in names:
        own = [row for row in rows if row["method"] == name and row.get("mtre") is not None]
        parts.append(f"<h3>{escape(name)}</h3>")
        for row in sorted(own, key=lambda r: -r["mtre"])[:_WORST]:
            case = Case(*(row[key] for key in ("ct", "view", "start", "factor", "number")))
            posed = WORKSHOP.posed(study, case)
            xray = posed.problem.xray
            for words, pose in (
                ("truth", posed.truth),
                (f"found, {row['mtre']:.2f} mm off", Pose(pose_of(folder, case, name))),  # type: ignore[arg-type]
            ):
                drr = posed.problem.registrar.projector(2.0).project(xray.carm, pose.camera_to_ras)
                picture = overlay_image(xray.pixels, drr.reshape(xray.carm.image_size), xray.mask)
                step = max(1, max(picture.shape) // 256)
                parts.append(figure(picture[::step, ::step], f"{case.name}: {words}", 256))
    return "".join(parts)


def _good(study: Study, row: Row) -> bool:
    return row.get("mtre") is not None and row["mtre"] < study.limit(row["ct"])


def _errors(rows: list[Row], key: str = "mtre") -> Any:
    """An error that is not there counts as infinite."""
    return np.array([np.inf if row.get(key) is None else row[key] for row in rows])


def _mm(value: Any) -> str:
    return f"{value:.2f} mm" if np.isfinite(value) else "-"


def _three(values: tuple[float, float, float]) -> str:
    return " / ".join(f"{value:g}" for value in values)


def _short(ct: str) -> str:
    return Path(ct).name
