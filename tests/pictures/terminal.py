"""A recorded terminal as one SVG that moves by CSS alone: no script, no font and no image from elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.style import Style

COLUMNS = 102
VISIBLE = 32
CELL, LINE, FONT = 7.8, 18, 12.9
LEFT, TOP = 20, 46
WIDTH = round(2 * LEFT + COLUMNS * CELL)
HEIGHT = TOP + VISIBLE * LINE + 16
SHORTEST, LONGEST, PROMPT, END = 0.06, 1.2, 1.0, 8.0
"""Seconds: between two lines at least and at most, before the first, and after the last until it begins again."""
COMMAND = "make demo"
RUN = re.compile(r"\S+(?: \S+)*")
COLOURS = {1: "red", 2: "green", 6: "cyan"}
"""The colours of a terminal that the demo uses."""
BOX = "╭╮╰╯─│"
STYLE = """
.w{fill:#161b22;stroke:#3d444d}
text{font:FONTpx ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#e6edf3;white-space:pre}
.green{fill:#3fb950}.cyan{fill:#56d4dd}.red{fill:#ff7b72}.dim{fill:#9198a1}.bold{font-weight:700}
path{fill:none;stroke:#e6edf3}path.green{fill:none;stroke:#3fb950}path.red{fill:none;stroke:#ff7b72}
""".replace("FONT", str(FONT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a terminal, and when it was there: in seconds."""

    text: Text
    at: float


def draw_recording(rows: Sequence[Row]) -> str:
    """The picture; where nobody wants motion it is the last frame."""
    rows = [Row(text=Text.assemble(("$", "green"), f" {COMMAND}"), at=0.0), *rows]
    times = _paced([row.at for row in rows])
    total = times[-1] + END
    frames = sorted(set(times[1:]))
    moves = [_appear(number, at, total) for number, at in enumerate(frames)]
    scroll = "".join(
        f"{100 * at / total:.2f}%{{transform:translateY({-_hidden(times, at) * LINE}px)}}" for at in frames
    )
    motion = (
        f"@media (prefers-reduced-motion:no-preference){{{''.join(moves)}"
        f"@keyframes scroll{{0%{{transform:none}}{scroll}}}#rows{{animation:scroll {total:.2f}s step-end infinite}}}}"
    )
    body = "\n".join(
        f'<g class="row{f" t{frames.index(at)}" if at in frames else ""}">{"".join(_cells(row.text, number))}</g>'
        for number, (row, at) in enumerate(zip(rows, times, strict=True))
    )
    dots = "".join(
        f'<circle cx="{LEFT + 4 + 18 * n}" cy="20" r="5.5" fill="{colour}"/>'
        for n, colour in enumerate(("#ff7b72", "#d29922", "#3fb950"))
    )
    last = -_hidden(times, times[-1]) * LINE
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>gpu-dra demo in a terminal</title>
<style>{STYLE}{motion}</style>
<rect class="w" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="9"/>{dots}
<svg y="{TOP}" width="{WIDTH}" height="{VISIBLE * LINE}"><g id="rows" transform="translate(0,{last})">
{body}
</g></svg></svg>
"""


def lines(picture: str) -> list[str]:
    """What a picture says, line by line, without its drawing."""
    rows = re.findall(r'<g class="row[^"]*">(.*?)</g>', picture)
    unescaped = (row.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for row in rows)
    return [" ".join(re.findall(r"<text[^>]*>(.*?)</text>", row)) for row in unescaped]


def _paced(real: Iterable[float]) -> list[float]:
    """Times at which lines appear: as they were, but no wait is long, and lines that came together stay so."""
    times, last = [], 0.0
    for at in real:
        gap = at - last if times else 0.0
        step = PROMPT if len(times) == 1 else 0.0 if gap < 0.005 else min(max(gap, SHORTEST), LONGEST)
        times.append(round((times[-1] if times else 0.0) + step, 2))
        last = at
    return times


def _hidden(times: Sequence[float], now: float) -> int:
    """Rows that have left the window at the top."""
    return max(0, sum(at <= now for at in times) - VISIBLE)


def _appear(number: int, at: float, total: float) -> str:
    return (
        f"@keyframes k{number}{{0%{{visibility:hidden}}{100 * at / total:.2f}%{{visibility:visible}}}}"
        f".t{number}{{animation:k{number} {total:.2f}s step-end infinite}}"
    )


def _cells(text: Text, row: int) -> Iterator[str]:
    """Runs of words at their columns, whatever the font; lines of boxes as paths."""
    for style, column, run in _runs(text):
        if run[0] in BOX:
            yield f'<path{_classes(style)} d="{"".join(_edges(run, column, row))}"/>'
        for found in RUN.finditer(re.sub(f"[{BOX}]", " ", run)):
            x, length = LEFT + (column + found.start()) * CELL, len(found[0]) * CELL
            yield (
                f'<text{_classes(style)} x="{x:.1f}" y="{row * LINE + 13}" textLength="{length:.1f}" '
                f'lengthAdjust="spacingAndGlyphs">{escape(found[0])}</text>'
            )


def _runs(text: Text) -> Iterator[tuple[Style, int, str]]:
    from rich.console import Console

    column = 0
    for segment in text.render(Console(width=COLUMNS), end=""):
        if segment.text and segment.style is not None:
            yield segment.style, column, segment.text
        elif segment.text:
            yield Console().get_style("none"), column, segment.text
        column += len(segment.text)


def _classes(style: Style) -> str:
    names = [name for name in ("bold", "dim") if getattr(style, name)]
    names += [COLOURS[style.color.number]] if style.color and style.color.number in COLOURS else []
    return f' class="{" ".join(names)}"' if names else ""


def _edges(run: str, column: int, row: int) -> Iterator[str]:
    top = row * LINE
    bottom, middle = top + LINE, top + LINE / 2
    for found in re.finditer("─+|.", run):
        character = found[0][0]
        left, right = (LEFT + (column + edge) * CELL for edge in found.span())
        x = left + CELL / 2
        if character == "─":
            yield f"M{left:.1f} {middle}H{right:.1f}"
        elif character == "│":
            yield f"M{x:.1f} {top}V{bottom}"
        elif character in BOX:
            vertical = bottom if character in "╭╮" else top
            end = right if character in "╭╰" else left
            yield f"M{x:.1f} {vertical}Q{x:.1f} {middle} {end:.1f} {middle}"
