"""Lines and points as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 90, 44, 64, 56
COLOURS = ("#e5484d", "#3e63dd", "#30a46c", "#8e4ec6")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``; with ``log``, ten times as much is the same step everywhere."""

    label: str
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, label: str, values: Sequence[float], log: bool) -> Axis:
        """One with all values on it."""
        if log:
            low = math.floor(math.log10(min(values)))
            high = max(math.ceil(math.log10(max(values))), low + 1)
            return cls(label, 10.0**low, 10.0**high, log)
        return cls(label, 0.0, max(values) * 1.1 or 1.0, log)

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values on it."""
        if self.log:
            first = round(math.log10(self.low))
            return [10.0**power for power in range(first, round(math.log10(self.high)) + 1)]
        rough = self.high / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
        return [step * number for number in range(int(self.high / step) + 1)]


def plot(title: str, x: str, y: str, lines: Mapping[str, Points], log_x: bool, log_y: bool) -> str:
    """An SVG picture of some lines, by what they are called; ``x`` and ``y`` label the axes."""
    points = [point for line in lines.values() for point in line]
    across = Axis.of(x, [point[0] for point in points], log_x)
    up = Axis.of(y, [point[1] for point in points], log_y)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        right = LEFT + across.place(point[0]) * (WIDTH - LEFT - RIGHT)
        return round(right, 1), round(HEIGHT - BOTTOM - up.place(point[1]) * _tall(), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#1c2024">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(24, 30, title, 'font-size="17" font-weight="600"'),
        _text((LEFT + WIDTH) / 2, HEIGHT - 12, x, 'text-anchor="middle" fill="#687076"'),
    ]
    for tick in up.ticks():
        _, height = at((across.low, tick))
        parts.append(f'<path d="M{LEFT} {height}H{WIDTH - RIGHT}" stroke="#e6e8eb"/>')
        parts.append(_text(LEFT - 8, height + 4, _number(tick), 'text-anchor="end"'))
    for tick in across.ticks():
        right, _ = at((tick, up.low))
        parts.append(_text(right, HEIGHT - BOTTOM + 20, _number(tick), 'text-anchor="middle"'))
    parts.append(_text(24, 52, y, 'fill="#687076"'))
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        path = " ".join(f"{right},{height}" for right, height in map(at, line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) <= 12:
            parts += [
                f'<circle cx="{a}" cy="{b}" r="4" fill="{colour}"/>' for a, b in map(at, line)
            ]
        if len(lines) > 1:
            place = WIDTH - RIGHT - 200 * (len(lines) - list(lines).index(name))
            parts.append(_text(place, 52, name, f'fill="{colour}" font-weight="600"'))
    return "\n".join([*parts, "</svg>", ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:g}"


def _tall() -> int:
    return HEIGHT - TOP - BOTTOM


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'
