"""The page of ``gpu-dra top --web`` in the demo's cluster, as a browser shows it."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

from driver.kube import Api
from driver.sim.process import gpu_dra
from tests.browser import browser
from tests.eventually import eventually
from tests.pictures.scene import play

WIDTH, HEIGHT = 1120, 516


async def photograph() -> bytes:
    """PNG of a demo in which pods run and a GPU has failed."""
    demo = await asyncio.create_subprocess_exec(
        *gpu_dra("demo", "--serve"), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        kubeconfig, plugins, address = await _told(demo)
        async with await Api.connect(kubeconfig) as api:
            await play(api)
        command = gpu_dra("fault", "--device=gpu-5", "--xid=79", f"--kubelet-plugins-dir={plugins}")
        fault = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await fault.wait()
        return await _picture(address)
    finally:
        demo.send_signal(signal.SIGINT)
        await demo.communicate()


async def _told(demo: asyncio.subprocess.Process) -> tuple[Path, Path, str]:
    """Where the kubeconfig, the plugins and the page are."""
    assert demo.stdout is not None
    said = ""
    while (line := (await demo.stdout.readline()).decode()) and "log of the driver" not in said:
        said += line
        paths = re.search(r"KUBECONFIG=(\S+) KUBELET_PLUGINS_DIR=(\S+)", said)
        page = re.search(r"(http://\S+/)\n", said)
        if paths and page:
            return Path(paths[1]), Path(paths[2]), page[1]
    sys.exit(f"the demo has not come up, the picture stays what it is: {said}")


async def _picture(address: str) -> bytes:
    async with browser() as tab:
        await tab.look(width=WIDTH, height=HEIGHT, dark=False)
        await tab.open(address)
        await tab.until("document.querySelector('#nodes .is-sick')")
        await eventually(lambda: tab.evaluate("document.querySelectorAll('#nodes a.cell.held').length >= 11"))
        return await tab.picture()
