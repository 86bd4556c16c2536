"""The page of ``gpu-dra top --web`` in a real browser, beside a cluster in which pods start and GPUs fail."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from driver.sim.process import gpu_dra
from tests.browser import browser
from tests.e2e.test_examples import CLASSES, EXAMPLES
from tests.e2e.test_top import TEMPLATE
from tests.needs import CHROMIUM, NO_CHROMIUM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.browser import Tab
    from tests.e2e.conftest import EmbeddedSite

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture
async def address(embedded: EmbeddedSite) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *gpu_dra("top"),
        f"--kubeconfig={embedded.cluster.kubeconfig}",
        "--web",
        "--port=0",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().split()[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def tab(address: str) -> AsyncIterator[Tab]:
    """A tab that shows the page; in the end nothing was complained about, and nobody else asked for anything."""
    async with browser() as tab:
        await tab.open(address)
        yield tab
        assert tab.errors == []
        assert [request for request in tab.requests if not request.startswith((address, "about:"))] == []


async def test_it_follows_pods_partitions_and_sick_gpus(embedded: EmbeddedSite, tab: Tab) -> None:
    await embedded.apply([*EXAMPLES[CLASSES].objects, TEMPLATE])
    assert await tab.evaluate("document.querySelectorAll('.gpu').length") == 8
    assert await tab.evaluate("document.querySelectorAll('.cell.held:not(#legend *)').length") == 0

    await embedded.apply([embedded.sleeper("train", template="half", seconds=1000)])

    # a partition of half a GPU appears, with its pod
    await tab.until("document.querySelector('#nodes a.held.w4')?.textContent === 'Atrain'")
    await tab.until("document.querySelector('#nodes a.held')?.title.endsWith('default/train')")
    await tab.until("document.querySelector('#summary').textContent.includes('default')")

    await embedded.fault("gpu-1", "--xid", "79")

    await tab.until("document.querySelector('#nodes .is-sick')?.textContent.includes('xid=79')")
    await tab.until("document.querySelector('#summary').textContent.includes('gpu-1 gpu.nvidia.com/xid=79')")

    await embedded.api.request("DELETE", "/api/v1/namespaces/default/pods/train")

    await tab.until("!document.querySelector('#nodes a.held')")


async def test_a_part_is_looked_at_with_the_keyboard_alone(embedded: EmbeddedSite, tab: Tab) -> None:
    await embedded.apply([*EXAMPLES[CLASSES].objects, TEMPLATE])
    await embedded.apply([embedded.sleeper("train", template="half", seconds=1000)])
    await embedded.phase("train", "Running")
    await tab.until("document.querySelector('#nodes a.held')")

    for _ in range(100):
        await tab.press("Tab", 9)
        if await tab.evaluate("document.activeElement.matches('a.held')"):
            break
    # what changes around it takes nothing from under the reader's fingers
    await embedded.fault("gpu-1", "--xid", "79")
    await tab.until("document.querySelector('#nodes .is-sick')")
    assert await tab.evaluate("document.activeElement.matches('a.held')")
    await tab.press("Enter", 13)

    panel = "document.querySelector('#details:not([hidden])')?.innerText ?? ''"
    await tab.until(f"({panel}).includes('train (Running)')")
    await tab.until(f"({panel}).includes('Started')")

    # what is looked at is still there after the page was loaded anew, and goes with Escape
    await tab.send("Page.reload")
    await tab.until(f"document.readyState === 'complete' && ({panel}).includes('train (Running)')")
    await tab.press("Escape", 27)
    await tab.until(f"({panel}) === ''")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_it_is_as_wide_as_the_window_and_as_dark_as_the_system(tab: Tab, dark: bool) -> None:
    for width in (400, 1280):
        await tab.look(width=width, height=800, dark=dark)

        assert await tab.evaluate("document.documentElement.scrollWidth") == width
        red = await tab.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
        assert (red < 60) is dark


async def test_the_colours_are_of_health_if_one_wants(embedded: EmbeddedSite, tab: Tab) -> None:
    await embedded.apply([*EXAMPLES[CLASSES].objects, TEMPLATE])
    await embedded.apply([embedded.sleeper("train", template="half", seconds=1000)])
    await tab.until("document.querySelector('#nodes a.held')")
    colour = "getComputedStyle(document.querySelector('#nodes a.held')).backgroundColor"
    of_namespace = await tab.evaluate(colour)

    await tab.evaluate("document.querySelector('#by-health').click()")

    assert await tab.evaluate(colour) != of_namespace
    await tab.send("Page.reload")
    await tab.until(f"document.querySelector('#by-health')?.checked && {colour} !== '{of_namespace}'")


async def test_where_nobody_answers_any_more_the_page_says_so(address: str, embedded: EmbeddedSite) -> None:
    async with browser() as tab:
        await tab.open(address)
        await tab.until("document.querySelector('#status.live')")
        await embedded.cluster.server.stop()

        await tab.until("document.querySelector('#status.stale')?.textContent.includes('the picture is')")
        await embedded.cluster.server.start()
        await tab.until("document.querySelector('#status.live')")
