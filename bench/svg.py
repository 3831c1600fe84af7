"""Plots as text: lines over two logarithmic axes, in SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

#: Units of the drawing; a phone shows it at about two thirds of that, the letters still readable.
WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 44.0

#: Marks around their point: colour is not all that tells lines apart.
CIRCLE = "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"
SQUARE = "M-4 -4h8v8h-8z"
TRIANGLE = "M0 -5l5 9h-10z"
DIAMOND = "M0 -5l5 5l-5 5l-5 -5z"
NO_MARK = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together, and how they look."""

    name: str
    style: str
    """A class of the page's style sheet."""
    mark: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from ``low`` to ``high``, drawn from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.stop - self.start)


def plot(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """An ``<svg>`` of these series; "" if there is nothing to draw. Values must be above 0."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
    x_axis = Axis(xs[0] / 1.3, xs[-1] * 1.3, LEFT, WIDTH - RIGHT)
    y_axis = Axis(min(ys) / 1.3, max(ys) * 1.3, HEIGHT - BOTTOM, TOP)
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}">',
            *(_tick_y(y_axis, value) for value in ticks(y_axis.low, y_axis.high)),
            *(_tick_x(x_axis, value) for value in xs),
            f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8:g}" '
            f'text-anchor="middle">{escape(x_label)}</text>',
            f'<text class="label" transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:g}) '
            f'rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
            *(_line(one, x_axis, y_axis) for one in series if one.points),
            "</svg>",
        ]
    )


def swatch(series: Series) -> str:
    """A piece of its line, for a legend."""
    return (
        '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        f'<path class="{series.style}" d="M2 6H26"/>{_mark(series, 14, 6)}</svg>'
    )


def ticks(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis: decades, and 2 and 5 of each where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    values = [step * 10.0**decade for decade in decades for step in steps]
    return [value for value in values if low <= value <= high]


def _tick_y(axis: Axis, value: float) -> str:
    y = axis.at(value)
    return (
        f'<path class="grid" d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}"/>'
        f'<text x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _tick_x(axis: Axis, value: float) -> str:
    x = axis.at(value)
    return (
        f'<path class="grid" d="M{x:.1f} {TOP:g}V{HEIGHT - BOTTOM:g}"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16:g}" text-anchor="middle">{value:g}</text>'
    )


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    at = [(x_axis.at(x), y_axis.at(y), x, y) for x, y in sorted(series.points)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in at)
    marks = "".join(
        f"<g>{_mark(series, x, y)}<title>{escape(series.name)}, {of_x:g}: {of_y:.3g}</title></g>"
        for x, y, of_x, of_y in at
    )
    return f'<path class="{series.style}" d="M{path}"/>{marks}'


def _mark(series: Series, x: float, y: float) -> str:
    if not series.mark:
        return ""
    at = f"translate({x:.1f} {y:.1f})"
    return f'<path class="{series.style} mark" transform="{at}" d="{series.mark}"/>'
