"""One-file HTML pages: style, tables, pictures as data and plots as SVG. A page asks nothing of the network.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines differ in dashes and marks, too.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a7a00")
GOOD, BAD = COLOURS[0], COLOURS[1]
_DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 2", "1 4", "12 5", "3 6")
_MARKS = ("circle", "square", "triangle", "diamond")

STYLE = (
    "body{font:15px system-ui,sans-serif;max-width:56em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.3em .7em;text-align:right}"
    "th{background:#f3f3f3;font-weight:600}td{white-space:nowrap}"
    "td:first-child{text-align:left;white-space:normal}"
    "table.facts td{text-align:left;white-space:normal}table.facts td:first-child{white-space:nowrap}"
    f".yes{{color:{GOOD}}}.no{{color:#a84a00}}svg{{display:block;margin:1em 0;max-width:100%;height:auto}}"
    "figure{display:inline-block;margin:.5em .7em .5em 0;vertical-align:top;max-width:48%}"
    "figure img{max-width:100%;display:block}figcaption{font-size:13px;color:#444;padding-top:.2em}"
    "h2{margin-top:1.6em}p.small{font-size:13px;color:#555}"
    "@media print{body{margin:0;max-width:none}figure,table,svg{break-inside:avoid}}"
)


def document(title: str, *parts: str) -> str:
    """The text of a page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts; `head` may be empty."""
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"  # noqa: E731
    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>{line(head, 'th') if head else ''}\n{body}</table>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values, both texts."""
    return table((), rows).replace("<table>", '<table class="facts">', 1)


def figure(image: NDArray[np.uint8], caption: str, width: int | None = None) -> str:
    """A picture [row, column] or [row, column, 3] with its caption."""
    wide = f' style="width:{width}px"' if width else ""
    return (
        f'<figure><img alt="{escape(caption, quote=True)}"{wide} src="data:image/png;base64,'
        f'{base64.b64encode(png(image)).decode()}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of 8-bit grey [row, column] or colour [row, column, 3]."""
    pixels = np.ascontiguousarray(image, np.uint8)
    rows, columns = pixels.shape[:2]
    kind = 0 if pixels.ndim == 2 else 2
    # Each row begins with its filter: 0, none.
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Line:
    """One line of a plot: `low` and `high` make a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marks: bool = False


def plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    logarithmic: bool = False,
    diagonal: bool = False,
) -> str:
    """Lines over an axis, as SVG with a legend beside it."""
    width, height, left, top, bottom = 520.0, 300.0, 56.0, 12.0, 44.0

    def px(values: Sequence[float] | NDArray) -> NDArray:
        low, high, at = (np.log(np.maximum(v, 1e-12)) if logarithmic else np.asarray(v, float)
                         for v in (x_range[0], x_range[1], values))  # fmt: skip
        return left + (np.clip(at, low, high) - low) / (high - low) * width

    def py(values: Sequence[float] | NDArray) -> NDArray:
        share = (np.clip(values, *y_range) - y_range[0]) / (y_range[1] - y_range[0])
        return top + (1 - share) * height

    def points(x: NDArray, y: NDArray) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888"/>']
    for tick, at in zip(x_ticks, px(x_ticks), strict=True):
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{at:.1f}" y="{top + height + 16}" text-anchor="middle">{tick:g}</text>')
    for tick, at in zip(y_ticks, py(y_ticks), strict=True):
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = left + width / 2, top + height / 2
    parts.append(f'<text x="{middle[0]}" y="{top + height + 36}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(14 {middle[1]}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    if diagonal:
        ends = points(px(x_range), py(y_range))
        parts.append(f'<polyline points="{ends}" fill="none" stroke="#888" stroke-dasharray="4 4"/>')
    for number, line in enumerate(lines):
        # Past the eighth the pairs of colour and dash go on differing.
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[(number + number // len(COLOURS)) % len(_DASHES)]
        if len(line.x) == 0:
            continue
        x, y = px(line.x), py(line.y)
        if line.low is not None and line.high is not None:
            around = np.concatenate([x, x[::-1]]), np.concatenate([py(line.low), py(line.high)[::-1]])
            parts.append(f'<polygon points="{points(*around)}" fill="{colour}" opacity="0.12"/>')
        parts.append(
            f'<polyline points="{points(x, y)}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        if line.marks:
            parts.extend(_mark(number, a, b, colour) for a, b in zip(x, y, strict=True))
        # The legend.
        at = top + 14 + 22 * number
        start = left + width + 16
        parts.append(
            f'<line x1="{start}" x2="{start + 34}" y1="{at}" y2="{at}" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>' + (_mark(number, start + 17, at, colour) if line.marks else "")
        )
        parts.append(f'<text x="{start + 42}" y="{at + 4}">{escape(line.name)}</text>')
    # The legend may be longer and wider than usual.
    total = left + width + 62 + max(148.0, *(6.6 * len(line.name) for line in lines), 0)
    tall = max(top + height + bottom, top + 22 * len(lines) + 4)
    return (
        f'<svg width="{total:.0f}" height="{tall:.0f}" viewBox="0 0 {total:.0f} {tall:.0f}" font-size="12" '
        f'font-family="system-ui,sans-serif" role="img" aria-label="{escape(y_label)} against {escape(x_label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _mark(number: int, x: float, y: float, colour: str) -> str:
    shape = _MARKS[(number + number // len(COLOURS)) % len(_MARKS)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    corners = [(0, -5), (5, 4), (-5, 4)] if shape == "triangle" else [(0, -5), (5, 0), (0, 5), (-5, 0)]
    return f'<polygon points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}" fill="{colour}"/>'
