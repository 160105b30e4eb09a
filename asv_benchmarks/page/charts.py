"""Figures as inline SVG. Colours are classes, which the style sheet sets for light and dark.

Every figure has a title that a screen reader reads, and every point one that says what it is.
"""

import math
from collections.abc import Sequence
from html import escape

from .history import Commit, Values


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


def sparkline(title: str, commits: Sequence[Commit], values: Values, unit: str, log: bool = False) -> str:
    """One line over the commits, from zero unless on a logarithmic axis."""
    width, height, edge = 170.0, 56.0, 4.0
    present = [v for v in values if v is not None]
    if log:
        low, high = (math.log10(max(f(present), 1e-3)) for f in (min, max))
        low, high = low - 0.1, max(high, low + 0.5)
    else:
        low, high = 0.0, max(*present, 0.0) or 1.0

    def place(i: int, value: float | None) -> tuple[float, float] | None:
        if value is None:
            return None
        shown = math.log10(max(value, 1e-3)) if log else value
        x = edge + (width - 2 * edge) * (i / max(1, len(values) - 1))
        return x, height - edge - (height - 2 * edge) * (shown - low) / (high - low)

    points = [place(i, v) for i, v in enumerate(values)]
    parts = [
        f'<svg class="spark" viewBox="0 0 {width:g} {height:g}" role="img"><title>{escape(title)}</title>',
        f'<path class="axis" d="M{edge} {height - edge}H{width - edge}"/>',
        f'<path class="line" d="{path(points)}"/>',
    ]
    last = max(i for i, p in enumerate(points) if p)
    for i, (point, value) in enumerate(zip(points, values, strict=True)):
        if point is not None:
            told = escape(f"{commits[i].short} {commits[i].subject}: {figure(value, unit)}")
            kind = "dot" if i == last else "hit"
            parts.append(
                f'<circle class="{kind}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3.5"><title>{told}</title></circle>'
            )
    return "".join(parts) + "</svg>"


def bar(value: float, low: float, high: float, kind: str, told: str) -> str:
    """A bar from 1 to the value, on a logarithmic axis from low to high; its number stands behind it."""

    def place(v: float) -> float:
        return 100 * math.log(v / low) / math.log(high / low)

    start, end = sorted((place(1), place(value)))
    side = f'x="{end:.2f}%" dx="4"' if value >= 1 else f'x="{start:.2f}%" dx="-4" text-anchor="end"'
    return (
        f'<svg class="bar" role="img" width="100%" height="14"><title>{escape(told)}</title>'
        f'<rect class="{kind}" x="{start:.2f}%" y="1" width="{max(end - start, 0.4):.2f}%" height="12"/>'
        f'<line class="one" x1="{place(1):.2f}%" x2="{place(1):.2f}%" y1="0" y2="14"/>'
        f'<text {side} y="11">{value:.2f}</text></svg>'
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
