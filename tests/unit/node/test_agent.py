"""What starts when, what stops when, and what an agent survives."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import pytest

from driver.hardware.fake.profile import ProfileError
from driver.kube.client import Api
from driver.node.agent import run_node, run_parts
from driver.node.config_file import NodeConfig
from driver.node.parts import Parts, assemble
from driver.node.settings import Settings
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Part:
    """In the place of one part: runs until it is cancelled, and says what it does."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said
        self.troubles: list[Exception] = []
        """What it fails with when it is run, one after the other."""

    async def run(self) -> None:
        self.said.append(f"{self.name} runs")
        if self.troubles:
            raise self.troubles.pop(0)
        try:
            await asyncio.Event().wait()
        finally:
            self.said.append(f"{self.name} ends")

    register = undo_leftovers = watch_mps = watch_specs = measure = account = follow_pods = run

    async def __aenter__(self) -> Part:
        self.said.append("sockets open")
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # others may end meanwhile
        self.said.append("sockets closed")


class Opened(Part):
    """In the place of what is opened before anything runs."""

    async def open(self) -> None:
        self.said.append(f"{self.name} opened")

    def __len__(self) -> int:
        return 0


class Agent:
    """An agent of parts that only say what they do."""

    def __init__(self, settings: Settings) -> None:
        self.said: list[str] = []
        real = assemble(settings, NodeConfig(), Api.nowhere())
        kept = {"settings", "metrics", "devices", "specs"}
        parts: dict[str, Any] = {
            field.name: getattr(real, field.name) if field.name in kept else Part(field.name, self.said)
            for field in fields(Parts)
        }
        parts["records"] = Opened("records", self.said)
        parts["status"] = None
        self.parts = Parts(**parts)
        self.part: Callable[[str], Part] = parts.__getitem__
        self.stop = asyncio.Event()

    async def run(self) -> None:
        await run_parts(self.parts, stop=self.stop)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        node_name="node-1",
        devices="fake:h100x8",
        kubelet_plugins_dir=tmp_path / "plugins",
        kubelet_registry_dir=tmp_path / "registry",
        cdi_root=tmp_path / "cdi",
        health_port=0,
        http_port=0,
    )


@pytest.fixture
async def agent(settings: Settings) -> Agent:
    return Agent(settings)


async def ran_and_stopped(agent: Agent, *, until: Callable[[], bool]) -> list[str]:
    """All that was said, from the start to the end."""
    running = asyncio.create_task(agent.run())
    await eventually(until)
    agent.stop.set()
    await running
    return agent.said


async def test_records_are_known_before_the_kubelet_can_call(agent: Agent, settings: Settings) -> None:
    said = await ran_and_stopped(agent, until=lambda: "serving runs" in agent.said)

    assert said[0] == "records opened"
    assert said.index("sockets open") < said.index("serving runs")
    assert settings.plugin_dir.is_dir()
    assert settings.kubelet_registry_dir.is_dir()


async def test_nothing_is_published_or_registered_any_more_when_the_sockets_go(agent: Agent) -> None:
    said = await ran_and_stopped(agent, until=lambda: "serving runs" in agent.said)

    closed = said.index("sockets closed")
    assert said.index("serving ends") < closed  # its task is the registration
    assert said.index("publisher ends") < closed


@pytest.mark.parametrize(
    "name", ["discovery", "publication", "engine", "sweeper", "coexistence", "events", "cdi_watch"]
)
async def test_what_the_last_call_may_need_goes_on_until_the_sockets_are_closed(agent: Agent, name: str) -> None:
    said = await ran_and_stopped(agent, until=lambda: f"{name} runs" in agent.said)

    assert said.index(f"{name} ends") > said.index("sockets closed")


@pytest.mark.parametrize(
    "name", ["discovery", "publisher", "publication", "engine", "sweeper", "coexistence", "cdi_watch"]
)
async def test_a_part_that_fails_is_run_again_and_the_agent_goes_on(
    agent: Agent, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent.part(name).troubles = [ValueError("an answer that nobody expects")]
    runs = 3 if name == "engine" else 2  # which has two tasks

    said = await ran_and_stopped(agent, until=lambda: agent.said.count(f"{name} runs") == runs)

    assert said.count("sockets open") == 1
    assert "an answer that nobody expects" in caplog.text


@pytest.mark.parametrize(
    ("name", "trouble"),
    [("discovery", ProfileError("no such profile")), ("serving", OSError("another process serves the socket"))],
)
async def test_what_no_time_mends_ends_the_agent(agent: Agent, name: str, trouble: Exception) -> None:
    agent.part(name).troubles = [trouble]

    with pytest.raises(ExceptionGroup) as found:
        await agent.run()

    assert found.value.exceptions == (trouble,)
    assert "sockets closed" in agent.said


async def test_a_cdi_root_that_cannot_be_made_keeps_nothing_from_starting(agent: Agent, settings: Settings) -> None:
    settings.cdi_root.write_text("a file where the directory should be")

    said = await ran_and_stopped(agent, until=lambda: "serving runs" in agent.said)

    assert "sockets closed" in said
    assert "cdi_watch runs" in said  # which says so


async def test_parts_are_made_without_touching_the_node(settings: Settings, tmp_path: Path) -> None:
    parts = assemble(settings, NodeConfig(), Api.nowhere())

    assert list(tmp_path.iterdir()) == []
    assert is_dataclass(parts)
    assert parts.status is None
    assert parts.devices.not_ready() != []


async def test_statuses_are_written_where_that_is_asked_for(settings: Settings) -> None:
    asked = settings.model_copy(update={"device_status": True})

    assert assemble(asked, NodeConfig(), Api.nowhere()).status is not None


def test_a_kubeconfig_that_is_not_there_is_a_setting_that_cannot_work(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driver.node.agent.configure_logging", lambda **_: None)  # that of the tests stays
    caplog.set_level(logging.ERROR)

    assert run_node(settings.model_copy(update={"kubeconfig": tmp_path / "none"})) == 2

    assert str(tmp_path / "none") in caplog.text
