"""Figures as inline SVG. Colours are classes, which the style sheet sets for light and dark.

Every figure has a title that a screen reader reads, and every point one that says what it is.
"""

import itertools
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from .history import Line as Trend


def figure(value: float | None, unit: str = "") -> str:
    """Three digits, and the unit in a size that suits the number."""
    if value is None:
        return "not measured"
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
            if abs(value) * factor >= 1 or name == "ns":
                return f"{digits(value * factor)} {name}"
    return f"{digits(value)}{unit}"


def digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if abs(value) < 1e3 else f"{value:,.0f}"


def path(points: Sequence[tuple[float, float] | None]) -> str:
    """Lines between neighbours; a gap where there is no point."""
    steps, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        steps.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    return "".join(steps)


def sparkline(title: str, trend: Trend, last: int, factor: float, unit: str, log: bool = False) -> str:
    """One line over the commits, from the first of the library to HEAD, and from zero unless on a logarithmic axis.
    Dots are recorded commits, hollow ones of another machine or compiler; a dashed line is a seam."""
    width, height, left, edge, foot = 190.0, 72.0, 30.0, 5.0, 13.0
    shown = [v * factor for point in trend.points for v in (point.low, point.value, point.high)]
    if log:
        low, high = (math.log10(max(f(shown), 1e-3)) for f in (min, max))
        low, high = low - 0.1, max(high, low + 0.5)
    else:
        low, high = 0.0, max(*shown, 0.0) or 1.0

    def x_of(number: int) -> float:
        return left + (width - left - edge) * (number - 1) / max(1, last - 1)

    def y_of(value: float) -> float:
        at = math.log10(max(value * factor, 1e-3)) if log else value * factor
        return height - foot - (height - foot - edge) * (at - low) / (high - low)

    top, days = digits(10**high if log else high), {}
    for point in trend.points:
        days.setdefault(datetime.fromtimestamp(point.commit.date / 1000, UTC).strftime("%d %b"), point.commit.number)
    parts = [
        f'<svg class="spark" viewBox="0 0 {width:g} {height:g}" role="img"><title>{escape(title)}</title>',
        f'<path class="axis" d="M{left:g} {edge:g}V{height - foot:g}H{width - edge:g}"/>',
        f'<text x="{left - 2:g}" y="{edge + 7:g}" text-anchor="end">{top}</text>',
        f'<text x="{left - 2:g}" y="{height - foot:g}" text-anchor="end">{digits(10**low) if log else "0"}</text>',
        f'<text x="{left:g}" y="{height - 2:g}">first commit</text>',
        f'<text x="{width - edge:g}" y="{height - 2:g}" text-anchor="end">HEAD</text>',
        *(
            f'<path class="axis" d="M{x_of(number):.1f} {height - foot:g}v3"><title>{name}</title></path>'
            for name, number in days.items()
        ),
    ]
    for at, told in trend.seams:
        x = (x_of(trend.points[at - 1].commit.number) + x_of(trend.points[at].commit.number)) / 2
        parts.append(
            f'<path class="seam" d="M{x:.1f} {edge:g}V{height - foot:g}"><title>{escape(told)} from here on</title></path>'
        )
    pieces = itertools.groupby(trend.points, key=lambda point: point.part)
    for part, piece in ((part, [*found]) for part, found in pieces):
        placed = [(x_of(p.commit.number), y_of(p.value)) for p in piece]
        kind = "line older" if part else "line"
        parts.append(
            f'<path class="{kind}" d="{path(placed) if len(placed) > 1 else f"M{placed[0][0]:.1f} {placed[0][1]:.1f}h.1"}"/>'
        )
        parts += [
            f'<path class="band" d="M{x_of(p.commit.number):.1f} {y_of(p.low):.1f}V{y_of(p.high):.1f}"/>'
            for p in piece
            if p.high > p.low
        ]
    for point in trend.points:
        told = f"{point.commit.short} {point.commit.subject}: {figure(point.value * factor, unit)}"
        if point.high > point.low:
            told += f" ({figure(point.low * factor, unit)} to {figure(point.high * factor, unit)})"
        kind = "dot" if point is trend.points[-1] else "mark older" if point.part else "mark"
        radius = 3 if kind == "dot" else 1.6
        parts.append(
            f'<circle class="{kind}" cx="{x_of(point.commit.number):.1f}" cy="{y_of(point.value):.1f}" r="{radius:g}">'
            f"<title>{escape(told)}</title></circle>"
        )
    return "".join(parts) + "</svg>"


def bar(ratio, low: float, high: float, kind: str, told: str) -> str:
    """A bar from 1 to the value, on a logarithmic axis from low to high, with its quartiles and a mark where the floor
    would be; its number stands behind it."""

    def place(v: float) -> float:
        return 100 * math.log(min(max(v, low), high) / low) / math.log(high / low)

    start, end = sorted((place(1), place(ratio.value)))
    side = (
        f'x="{max(end, place(ratio.high)):.2f}%" dx="5"'
        if ratio.value >= 1
        else f'x="{min(start, place(ratio.low)):.2f}%" dx="-5" text-anchor="end"'
    )
    whisker = (
        f'<line class="whisker" x1="{place(ratio.low):.2f}%" x2="{place(ratio.high):.2f}%" y1="7" y2="7"/>'
        if ratio.high > ratio.low
        else ""
    )
    floor = (
        f'<line class="floor" x1="{place(ratio.floor):.2f}%" x2="{place(ratio.floor):.2f}%" y1="0" y2="14"/>'
        if ratio.floor
        else ""
    )
    return (
        f'<svg class="bar" role="img" width="100%" height="14"><title>{escape(told)}</title>'
        f'<rect class="{kind}" x="{start:.2f}%" y="2" width="{max(end - start, 0.4):.2f}%" height="10"/>{whisker}{floor}'
        f'<line class="one" x1="{place(1):.2f}%" x2="{place(1):.2f}%" y1="0" y2="14"/>'
        f'<text {side} y="11">{ratio.value:.2f}</text></svg>'
    )


def scale(ticks: Sequence[float], low: float, high: float) -> str:
    """The axis of the bars."""
    marks = "".join(
        f'<text x="{100 * math.log(t / low) / math.log(high / low):.2f}%" y="11" text-anchor="middle">{t:g}</text>'
        for t in ticks
        if low < t < high
    )
    return f'<svg class="bar" role="img" width="100%" height="14"><title>Axis: times as fast, logarithmic</title>{marks}</svg>'


# Name, class, ratio -> (error, what is worst there)
Line = tuple[str, str, dict[float, tuple[float, str]]]


def curve(title: str, lines: Sequence[Line]) -> str:
    """Error against mean/std, both logarithmic."""
    width, height, left, right, top, bottom = 360, 236, 42, 10, 12, 40
    ratios = sorted({ratio for _, _, points in lines for ratio in points})
    errors = [error for _, _, points in lines for error, _ in points.values()]
    least = 0.1  # an error of zero has no place on the axis: it is drawn at its foot
    low = math.floor(math.log10(max(least, min(errors))))
    high = max(low + 1, math.ceil(math.log10(max(*errors, least))))
    first, last = math.log10(ratios[0]), max(math.log10(ratios[-1]), math.log10(ratios[0]) + 1)

    def place(ratio: float, error: float) -> tuple[float, float]:
        x = left + (width - left - right) * (math.log10(ratio) - first) / (last - first)
        exponent = max(math.log10(max(error, 1e-9)), low)
        return x, height - bottom - (height - top - bottom) * (exponent - low) / (high - low)

    parts = [f'<svg class="curve" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>']
    for exponent in range(low, high + 1, max(1, (high - low) // 6)):
        y = place(ratios[0], 10.0**exponent)[1]
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{power(exponent)}</text>')
    for ratio in ratios:
        x = place(ratio, 1)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{height - bottom + 15}" text-anchor="middle">{power(round(math.log10(ratio)))}</text>'
        )
    middle = (left + width - right) / 2
    parts.append(
        f'<text x="{middle}" y="{height - 6}" text-anchor="middle">mean / standard deviation of the input</text>'
    )
    for name, kind, points in lines:
        placed = [place(ratio, points[ratio][0]) for ratio in ratios if ratio in points]
        parts.append(f'<path class="line {kind}" d="{path(placed)}"/>')
        for ratio, (error, worst) in sorted(points.items()):
            x, y = place(ratio, error)
            told = escape(f"{name}, mean/std {ratio:g}: {digits(error)} ULP, {worst}")
            parts.append(f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{told}</title></circle>')
    return "".join(parts) + "</svg>"


def power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -2 <= exponent <= 3 else f'10<tspan dy="-4" font-size="8">{exponent}</tspan>'
