"""What the demo advises in the end works where its reader is."""

import os
import subprocess
from pathlib import Path

import pytest

from driver.hardware.fake import profile
from driver.sim.demo.next_steps import say_what_next

HERE = Path(__file__).parents[2]


class Pasted:
    """A screen that keeps what readers may copy."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def heading(self, title: str) -> None:
        pass

    def to_paste(self, text: str, _why: str = "") -> None:
        self.lines.append(text)


@pytest.mark.parametrize("here", [HERE, Path("/")], ids=["in the repository", "elsewhere"])
def test_each_command_is_one_that_there_is(monkeypatch: pytest.MonkeyPatch, here: Path):
    monkeypatch.chdir(here)
    screen = Pasted()

    say_what_next(screen)

    assert len(screen.lines) == 3
    if here == HERE:
        assert max(map(len, screen.lines)) <= 80 - len("   ")
    for line in screen.lines:
        outcome = subprocess.run(
            ["bash", "-c", f"{line} --help"], cwd=here, capture_output=True, text=True, check=False
        )
        assert outcome.returncode == 0, outcome.stderr
        assert all(source in profile.known() for source in sources(line))


def test_what_a_node_would_publish_is_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(HERE)
    screen = Pasted()
    say_what_next(screen)
    [line] = [line for line in screen.lines if " slices " in line]

    # A driver may serve the machine that the tests run on.
    environment = {**os.environ, "KUBELET_PLUGINS_DIR": str(tmp_path)}
    outcome = subprocess.run(
        ["bash", "-c", line], cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )

    assert outcome.returncode == 0, outcome.stderr
    assert "gpu-0-mig-1g10gb-19-6" in outcome.stdout


def sources(line: str) -> list[str]:
    return [word.removeprefix("fake:") for word in line.split() if word.startswith("fake:")]
