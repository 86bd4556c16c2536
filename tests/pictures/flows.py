"""The three flows through the driver, drawn from one table."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One flow: from a party on the left through three steps to a party on the right."""

    name: str
    source: tuple[str, str]
    comes: str
    """What the source gives."""
    steps: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    goes: str
    """What the last step gives."""
    target: tuple[str, str]


LANES = (
    Lane(
        name="Health",
        source=("GPUs", "the node's hardware"),
        comes="events",
        steps=(
            ("errors", "read and told apart"),
            ("conditions", "of each device"),
            ("health", "of each claim"),
        ),
        goes="stream",
        target=("kubelet", "the pod's status"),
    ),
    Lane(
        name="Inventory",
        source=("GPUs", "the node's hardware"),
        comes="NVML",
        steps=(("read", "what is there"), ("offer", "whole, cut, shared"), ("publish", "only changes")),
        goes="ResourceSlices",
        target=("API server", "scheduler allocates"),
    ),
    Lane(
        name="Claims",
        source=("kubelet", "starts a pod"),
        comes="gRPC",
        steps=(
            ("plan", "what was allocated"),
            ("record", "one small file"),
            ("set up", "partitions, MPS"),
        ),
        goes="CDI spec",
        target=("runtime", "starts containers"),
    ),
)
ALLOCATION = "allocation in the claim's status"
TAINTS = "taints in the slices"
DRIVER = "gpu-dra run: one pod per node"

WIDTH, HEIGHT = 840, 400
OUTER, INNER, BOX = 112, 116, 52
LEFT, FIRST, PITCH = 14, 208, 137
TOPS = (60, 178, 312)
COLOURS = (("#9a6700", "#e3b341"), ("#0969da", "#58a6ff"), ("#1a7f37", "#3fb950"))
STYLE = """
text{font:13px -apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#1f2328}
.s{font-size:11px;fill:#59636e}.t{font-weight:600}.m{text-anchor:middle}
.bg{fill:#fff;stroke:#d1d9e0}.d{fill:#f6f8fa;stroke:#d1d9e0}.p{fill:#fff;stroke:#59636e}
.n{fill:#fff}path{fill:none;stroke-width:1.6}
LIGHT
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}
.bg{fill:#0d1117;stroke:#3d444d}.d{fill:#161b22;stroke:#3d444d}.p{fill:#0d1117;stroke:#9198a1}.n{fill:#0d1117}
DARK}
"""


def draw_flows() -> str:
    """The picture."""
    style = STYLE.replace("LIGHT", _colours(0)).replace("DARK", _colours(1))
    markers = "".join(
        f'<marker id="a{n}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<polygon class="f{n}" points="0,0.5 8,4 0,7.5"/></marker>'
        for n in range(len(LANES))
    )
    inner = FIRST - 16, 2 * PITCH + INNER + 32
    parts = [
        f'<rect class="bg" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="9"/>',
        f'<rect class="d" x="{inner[0]}" y="12" width="{inner[1]}" height="{HEIGHT - 24}" rx="8"/>',
        f'<text class="s m" x="{inner[0] + inner[1] / 2}" y="30">{escape(DRIVER)}</text>',
    ]
    for number in range(len(LANES)):
        parts += _lane(number)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>Three flows pass through the driver: {", ".join(lane.name.lower() for lane in LANES)}</title>
<style>{style}</style><defs>{markers}</defs>
{chr(10).join([*parts, *_between()])}
</svg>
"""


def _colours(theme: int) -> str:
    return "".join(
        f".c{n}{{stroke:{pair[theme]}}}.f{n}{{fill:{pair[theme]}}}text.f{n}{{fill:{pair[theme]}}}"
        for n, pair in enumerate(COLOURS)
    )


def _lane(number: int) -> list[str]:
    lane, top = LANES[number], TOPS[number]
    middle, right = top + BOX / 2, WIDTH - LEFT - OUTER
    last = FIRST + 2 * PITCH + INNER
    above = next((n for n in range(number) if LANES[n].source == lane.source), None)
    below = next((n for n in range(number + 1, len(LANES)) if LANES[n].source == lane.source), None)
    parts = [f'<text class="t f{number}" x="{FIRST}" y="{top - 9}">{escape(lane.name)}</text>']
    if above is None:  # a party of two flows is one box
        height = TOPS[below] + BOX - top if below is not None else BOX
        parts += _box("p", LEFT, top, OUTER, height, lane.source)
    parts += _box("p", right, top, OUTER, BOX, lane.target)
    parts += _arrow(number, LEFT + OUTER, FIRST, middle, lane.comes, until=FIRST - 16)
    for step, words in enumerate(lane.steps):
        parts += _box(f"n c{number}", FIRST + step * PITCH, top, INNER, BOX, words)
        if step:
            parts += _arrow(number, FIRST + step * PITCH - PITCH + INNER, FIRST + step * PITCH, middle)
    parts += _arrow(number, last, right, middle, lane.goes, start=last + 16)
    return parts


def _between() -> list[str]:
    """Taints go into the slices, and what was allocated comes back as a claim."""
    taints = FIRST + PITCH + INNER / 2
    publish = FIRST + 2 * PITCH + INNER / 2
    high, low = TOPS[0] + BOX, TOPS[1]
    turn = (high + low) / 2
    server = WIDTH - LEFT - OUTER / 2
    plan = FIRST + INNER / 2
    back = TOPS[1] + BOX + 28
    return [
        f'<path class="c0" d="M{taints} {high}V{turn}H{publish}V{low - 1}" marker-end="url(#a0)"/>',
        f'<text class="s m" x="{(taints + publish) / 2}" y="{turn - 6}">{escape(TAINTS)}</text>',
        f'<path class="c2" d="M{server} {TOPS[1] + BOX}V{back}H{plan + 40}V{TOPS[2] - 1}" marker-end="url(#a2)"/>',
        f'<text class="s m" x="{(plan + server) / 2}" y="{back - 6}">{escape(ALLOCATION)}</text>',
    ]


def _box(kind: str, x: float, y: float, width: float, height: float, words: tuple[str, str]) -> list[str]:
    middle = y + height / 2
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>',
        f'<text class="t m" x="{x + width / 2}" y="{middle - 3}">{escape(words[0])}</text>',
        f'<text class="s m" x="{x + width / 2}" y="{middle + 14}">{escape(words[1])}</text>',
    ]


def _arrow(
    number: int, x: float, to: float, y: float, label: str = "", *, start: float = 0, until: float = 0
) -> list[str]:
    parts = [f'<path class="c{number}" d="M{x} {y}H{to - 1}" marker-end="url(#a{number})"/>']
    if label:  # between the party and the driver
        parts.append(f'<text class="s m" x="{((start or x) + (until or to)) / 2}" y="{y - 6}">{escape(label)}</text>')
    return parts
