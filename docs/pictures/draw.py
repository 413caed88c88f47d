"""Draws recompute.svg: what is kept in memory while a model of 16 layers makes one step.

Run ``python docs/pictures/draw.py`` after a change. A layer's forward pass takes one unit of time
and leaves one unit of memory for its backward pass, which takes two units of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LAYERS, SEGMENT = 16, 4
PICTURE = Path(__file__).with_name("recompute.svg")

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 150, 52
TIME = 3 * LAYERS + LAYERS  # of a step with recompute: once more forward

COLOURS = {"forward": "#7fb3e6", "again": "#f0b36a", "backward": "#9d8cd6"}
NAMES = {"forward": "forward", "again": "forward again", "backward": "backward"}
PLAIN, RECOMPUTED = "#b3442f", "#1d7a46"
STYLE = """
text { font: 15px system-ui, "Noto Sans CJK SC", "WenQuanYi Zen Hei", sans-serif; fill: #3b434c; }
.title { font-weight: 600; fill: #1f2328; }
.grid { stroke: #dfe3e8; }
.curve { fill: none; stroke-width: 3; stroke-linejoin: round; }
"""

Phase = tuple[str, int, list[int]]  # what is done, units of time, memory after each layer


def plain() -> Iterator[Phase]:
    """Every layer's activation is kept until its backward pass."""
    yield "forward", LAYERS, list(range(1, LAYERS + 1))
    yield "backward", 2 * LAYERS, list(range(LAYERS - 1, -1, -1))


def recomputed() -> Iterator[Phase]:
    """The inputs of segments are kept; one segment at a time is run again, and then backward."""
    yield "forward", LAYERS, [-(-layer // SEGMENT) for layer in range(1, LAYERS + 1)]
    for inputs in range(LAYERS // SEGMENT, 0, -1):
        yield "again", SEGMENT, [inputs + layer for layer in range(1, SEGMENT + 1)]
        yield (
            "backward",
            2 * SEGMENT,
            [*(inputs + n for n in range(SEGMENT - 1, 0, -1)), inputs - 1],
        )


def x(time: float) -> float:
    """Where a moment is on the sheet."""
    return LEFT + time / TIME * (WIDTH - LEFT - RIGHT)


def y(memory: float) -> float:
    """Where an amount of memory is on the sheet."""
    return HEIGHT - BOTTOM - memory / LAYERS * (HEIGHT - TOP - BOTTOM)


def strip(phases: list[Phase], title: str, top: int) -> Iterator[str]:
    """The phases of a step one after another."""
    yield f'<text class="title" x="{LEFT}" y="{top - 7}">{title}</text>'
    time = 0
    for kind, duration, _ in phases:
        place = f'x="{x(time):.1f}" width="{x(duration) - x(0) - 1:.1f}"'
        yield f'<rect {place} y="{top}" height="20" rx="3" fill="{COLOURS[kind]}"/>'
        time += duration


def curve(phases: list[Phase], colour: str) -> str:
    """Memory against time."""
    points, time = [(0.0, 0)], 0.0
    for _, duration, memory in phases:
        for amount in memory:
            time += duration / len(memory)
            points.append((time, amount))
    places = " ".join(f"{x(time):.1f},{y(amount):.1f}" for time, amount in points)
    return f'<polyline class="curve" stroke="{colour}" points="{places}"/>'


def peak(phases: list[Phase]) -> int:
    """The most memory that is in use at once."""
    return max(max(memory) for _, _, memory in phases)


def elements() -> Iterator[str]:
    """Everything that is on the sheet."""
    ways = [("plain", list(plain()), PLAIN), ("recompute", list(recomputed()), RECOMPUTED)]
    for number, (name, phases, _) in enumerate(ways):
        yield from strip(phases, name, 34 + 52 * number)
    left = x(TIME) - 362
    for kind, colour in COLOURS.items():
        yield f'<rect x="{left:.1f}" y="14" width="12" height="12" rx="2" fill="{colour}"/>'
        yield f'<text x="{left + 18:.1f}" y="25">{NAMES[kind]}</text>'
        left += 44 + 8 * len(NAMES[kind])
    for amount in range(0, LAYERS + 1, 4):
        yield f'<path class="grid" d="M{x(0):.1f} {y(amount):.1f}H{x(TIME):.1f}"/>'
        yield f'<text x="{LEFT - 10}" y="{y(amount) + 5:.1f}" text-anchor="end">{amount}</text>'
    for name, phases, colour in ways:
        yield curve(phases, colour)
        highest = peak(phases)
        when, above = (LAYERS + 1, -4) if name == "plain" else (2.25 * LAYERS, 9)
        note = f"{name}: at most {highest} layers"
        place = f'x="{x(when):.1f}" y="{y(highest) - above:.1f}"'
        yield f'<text {place} style="fill: {colour}; font-weight: 600">{note}</text>'
    middle = (y(0) + y(LAYERS)) / 2
    yield f'<text x="{(x(0) + x(TIME)) / 2:.1f}" y="{HEIGHT - 16}" text-anchor="middle">time</text>'
    turned = f'transform="rotate(-90 20 {middle:.1f})"'
    what = "layers’ activations kept"
    yield f'<text x="20" y="{middle:.1f}" text-anchor="middle" {turned}>{what}</text>'


def draw() -> str:
    """Return the picture."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>',
        *elements(),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
