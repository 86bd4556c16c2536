"""``gpu-dra demo`` as people and machines run it, to its end and to an early one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from driver.sim.cluster import Cluster
from driver.sim.process import gpu_dra
from tests import processes
from tests.eventually import PATIENCE, eventually
from tests.needs import KUBECTL, NO_KUBECTL
from tests.pictures import DEMO
from tests.pictures.terminal import lines
from tests.short import short_directory
from tests.signals import HEARS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for temporary files that sockets fit below."""
    with short_directory() as directory:
        yield directory


async def test_the_demo_does_what_it_says_and_what_its_picture_shows() -> None:
    process = await asyncio.create_subprocess_exec(
        *gpu_dra("demo"), "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(2 * PATIENCE):
        output, errors = await process.communicate()

    outcome: dict[str, Any] = json.loads(output)
    assert (process.returncode, outcome["ok"]) == (0, True), f"{outcome}\n{errors.decode()}"
    assert outcome["failed_prepares"] == 0
    assert outcome["prepare_ms"]["n"] > 40
    assert all(chapter["steps"] for chapter in outcome["chapters"])
    assert list(not_in(lines(DEMO.read_text()), outcome["chapters"])) == [], "make picture draws it again"


async def test_a_demo_whose_driver_dies_unexpectedly_says_so_and_leaves_nothing_behind() -> None:
    process = await asyncio.create_subprocess_exec(
        *gpu_dra("demo"), "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    driver, root = await eventually(lambda: driver_of(process.pid))
    await eventually(lambda: list(root.glob("plugins/*/claims/*.json")))

    os.kill(driver, signal.SIGKILL)

    async with asyncio.timeout(2 * PATIENCE):
        output, _ = await process.communicate()
    outcome = json.loads(output)
    assert (process.returncode == 0) is outcome["ok"]
    assert outcome["ok"] or outcome["error"]
    assert not root.exists()
    assert not Path(f"/proc/{driver}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_demo_that_is_interrupted_says_goodbye_and_leaves_nothing_behind(number: signal.Signals) -> None:
    async with on_a_terminal("demo") as (process, shown):
        driver, root = await eventually(lambda: driver_of(process.pid))
        await eventually(lambda: "waiting: " in shown(), what="a line that says what is waited for")

        process.send_signal(number)

        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 128 + number
    assert shown().rstrip().endswith("Goodbye: the driver and the cluster have ended.")
    assert not root.exists()
    assert not Path(f"/proc/{driver}").exists()


async def test_a_demo_that_is_interrupted_while_its_driver_starts_leaves_none(short: Path) -> None:
    async with on_a_terminal("demo", TMPDIR=str(short)) as (process, shown):
        await eventually(lambda: list(short.glob("*/node.yaml")))

        process.send_signal(signal.SIGINT)

        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 130
    assert "✗" not in shown()
    assert list(short.iterdir()) == []
    assert [pid for pid in processes.everybody() if str(short) in " ".join(processes.arguments(pid))] == []


async def test_what_a_cluster_is_not_waited_for_any_more_does_not_go_on(short: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def chapter() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Cluster(short) as cluster:
        waiting = asyncio.create_task(cluster.or_failure(chapter()))
        await begun.wait()

        waiting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ended.is_set()


async def test_neither_a_long_directory_nor_a_terminal_without_our_symbols_ends_the_demo(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 88)
    long.mkdir()
    async with on_a_terminal("demo", TMPDIR=str(long), PYTHONIOENCODING="ascii") as (process, shown):
        await eventually(lambda: "01-single-gpu" in shown())

        process.send_signal(signal.SIGINT)

        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 130
    assert shown().isascii()
    assert "   +  driver registered" in plain(shown())
    assert list(long.iterdir()) == []


@pytest.mark.skipif(not KUBECTL, reason=NO_KUBECTL)
async def test_what_the_served_cluster_says_to_try_works_when_it_is_pasted(tmp_path: Path) -> None:
    async with on_a_terminal("demo", "--serve") as (process, shown):
        await eventually(lambda: "log of the driver" in plain(shown()))
        _, _, said = plain(shown()).partition("in another terminal:")
        commands = said.partition("To look at")[0]
        assert commands.split()[0] == "export"

        pasted = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euc", commands],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )

        [address] = re.findall(r"as they are held: (http://\S+)", plain(shown()))
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            page = await response.text()

        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    assert "demo-node" in page
    assert pasted.returncode == 0, pasted.stderr
    assert "GPU_DRA_GPU_0=GPU-" in pasted.stdout
    assert "gpu.nvidia.com" in pasted.stdout


@contextlib.asynccontextmanager
async def on_a_terminal(*arguments: str, **environment: str) -> AsyncIterator[tuple[Any, Any]]:
    """A command on a terminal of its own, and a function that tells what it has shown."""
    ours, theirs = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        try:
            chunks.append(os.read(ours, 1 << 16))
        except OSError:  # nobody writes any more
            asyncio.get_running_loop().remove_reader(ours)

    asyncio.get_running_loop().add_reader(ours, read)
    variables: Mapping[str, str] = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment}
    process = await asyncio.create_subprocess_exec(
        *HEARS,
        *gpu_dra(*arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, lambda: b"".join(chunks).decode()
        await eventually(lambda: "Goodbye" in b"".join(chunks).decode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


def not_in(picture: Sequence[str], chapters: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Titles and steps that a picture does not show in this order; what another run does on other GPUs is the same."""
    rest = told(" ".join(re.sub(r" \d+\.\d\d s$", "", line) for line in picture))
    for number, chapter in enumerate(chapters, 1):
        steps = [f"✓ {step['what']} {step['detail'].partition('→')[0]}" for step in chapter["steps"]]
        for text in (f"{number} {chapter['title']}", *steps):
            _, found, after = rest.partition(told(text))
            if found:
                rest = after
            else:
                yield text


def told(text: str) -> str:
    """Without what is different in each run: processes, pods, GPUs."""
    return re.sub(r"process \d+|job-survives-\w{5}\b|gpu-\d+", "…", " ".join(text.split()))


def plain(shown: str) -> str:
    """Without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n")


def driver_of(demo: int) -> tuple[int, Path] | None:
    """Process id and directory of the driver that a demo has started."""
    for pid in Path(f"/proc/{demo}/task/{demo}/children").read_text(encoding="utf-8").split():
        arguments = processes.arguments(int(pid))
        if "run" in arguments[:5]:
            return int(pid), Path(next(a for a in arguments if a.startswith("--cdi-root=")).partition("=")[2]).parent
    return None
