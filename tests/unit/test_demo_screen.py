"""What the demo prints on terminals of any width and encoding."""

import io
import sys

import pytest

from driver.sim.demo.screen import Screen

UUID = "GPU-f65ec4d9-9d11-599e-9a08-10c80fd13c87"
GPUS = {
    "DEVICE": ["gpu-0", "gpu-1"],
    "PRODUCT": ["NVIDIA H100 80GB HBM3"] * 2,
    "MEMORY": ["81559Mi"] * 2,
    "CUDA": ["9.0.0"] * 2,
    "NUMA": ["0", "1"],
    "PCI ADDRESS": ["0000:1b:00.0"] * 2,
    "UUID": [UUID] * 2,
}
SPARE = ("MEMORY", "NUMA", "CUDA", "PCI ADDRESS")


class Shown:
    """A screen of so many columns that is a pipe in truth."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str = "utf-8") -> None:
        self._stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", self._stream)
        monkeypatch.setenv("COLUMNS", str(columns))
        self.screen = Screen(quiet=False)

    def lines(self) -> list[str]:
        self._stream.flush()
        return [line.rstrip() for line in self._stream.buffer.getvalue().decode(self._stream.encoding).splitlines()]


@pytest.mark.parametrize(
    ("columns", "headings"),
    [
        (80, ["DEVICE", "PRODUCT", "UUID"]),
        (100, ["DEVICE", "PRODUCT", "MEMORY", "CUDA", "NUMA", "UUID"]),
        (120, list(GPUS)),
    ],
)
def test_what_a_table_shows_is_whole_and_the_rest_is_left_out(monkeypatch, columns: int, headings: list[str]):
    shown = Shown(monkeypatch, columns)

    shown.screen.table(GPUS, spare=SPARE)

    heading, *rows = shown.lines()
    assert heading.split("  ") == [part for part in heading.split("  ") if part.strip() or not part]
    assert [name for name in GPUS if name in heading] == headings
    assert len(rows) == 2
    assert all(row.endswith(UUID) for row in rows)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_line_that_is_to_be_copied_is_never_broken(monkeypatch, columns: int):
    shown = Shown(monkeypatch, columns)
    command = "gpu-dra fault --device gpu-0 --xid 79 --kubelet-plugins-dir /tmp/gpu-dra-12345678/plugins --clear --lost"

    shown.screen.to_paste(command, "why")
    shown.screen.command(command)

    assert shown.lines() == ["   why", f"   {command}", f"   $ {command}"]


def test_what_came_of_a_step_stands_in_one_piece(monkeypatch):
    shown = Shown(monkeypatch, 80)
    shown.screen.chapter("A chapter")

    shown.screen.done("11-one-big-partition", "One pod with the biggest partition", got="gpu-0", took="0.16 s")
    shown.screen.done("11-one-big-partition", "One pod with a partition as big as it can", got="gpu-0-mig-7g80gb-0-0")

    assert shown.lines()[2:] == [
        "   ✓  11-one-big-partition       One pod with the biggest partition       0.16 s",
        "                                 → gpu-0",
        "   ✓  11-one-big-partition       One pod with a partition as big as it can",
        "                                 → gpu-0-mig-7g80gb-0-0",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_symbols_gets_them_in_ascii_and_aligned(monkeypatch, encoding: str):
    shown = Shown(monkeypatch, 80, encoding)

    shown.screen.title("gpu-dra demo", "devices: fake:/home/jürg/…")
    shown.screen.chapter("A chapter")
    shown.screen.done("a step", "of many", got="gpu-0 … gpu-7", took="0.10 s")
    shown.screen.failed("stopped here", "for no reason")

    assert shown.lines() == [
        "",
        f"+- gpu-dra demo {'-' * 63}+",
        f"|{'  devices: fake:/home/j' + chr(92) + 'xfcrg/...':78}|",
        f"+{'-' * 78}+",
        "",
        "1  A chapter",
        "   +  a step                     of many -> gpu-0 ... gpu-7               0.10 s",
        "   x  stopped here               for no reason",
    ]


def test_a_pipe_gets_no_line_that_moves(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = Shown(monkeypatch, 80)

    with shown.screen as screen:
        screen.waiting("something slow")
        screen.note("seen")

    assert "slow" not in "".join(shown.lines())
    assert "\x1b[?25l" not in "".join(shown.lines())


def test_what_is_quiet_remembers_what_was_shown(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    screen = Screen(quiet=True)

    screen.chapter("A chapter")
    screen.done("a step", "of many", got="gpu-0")

    assert sys.stdout.getvalue() == ""
    assert [(chapter.title, [(s.what, s.detail) for s in chapter.steps]) for chapter in screen.chapters] == [
        ("A chapter", [("a step", "of many → gpu-0")])
    ]
