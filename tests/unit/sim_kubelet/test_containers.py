"""Containers as processes: edits, ends, adoption, and what cannot be started."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from driver.sim.kubelet.cdi import CdiCache
from driver.sim.kubelet.containers import CreateError, Launch, Runtime
from tests import processes
from tests.eventually import PATIENCE, eventually
from tests.unit.sim_kubelet.fakes import write_spec

POD = {"metadata": {"uid": "u1", "namespace": "ns", "name": "p"}}
KIND = "k8s.gpu.example.com/claim"


@pytest.fixture
async def runtime(root):
    (root / "cdi").mkdir()
    runtime = Runtime(root / "pods", cdi=CdiCache([root / "cdi"]))
    runtime.create_sandbox(POD)
    yield runtime
    for container in runtime.containers("u1"):
        await container.stop(0)


def launch(script, **changes):
    return Launch(**{"name": "c", "attempt": 0, "argv": ["sh", "-c", script], "env": {}, **changes})


def exists(path):
    return Path(path).exists()


async def run(*command):
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output.decode()


def log(runtime):
    return runtime.log_file("u1", "c", 0).read_text()


async def test_the_exit_code_is_the_processes(runtime):
    container = await runtime.start("u1", launch("exit 7"))

    assert (await container.wait()).code == 7


async def test_a_process_that_heeds_sigterm_ends_with_its_own_code(runtime):
    container = await runtime.start("u1", launch("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"))
    await eventually(lambda: log(runtime))

    assert (await container.stop(PATIENCE)).code == 5


async def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(runtime):
    container = await runtime.start("u1", launch("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await eventually(lambda: log(runtime))

    assert (await container.stop(0.2)).code == 137


async def test_processes_left_behind_by_the_main_one_are_killed(runtime):
    container = await runtime.start("u1", launch("sleep 100 & echo $!"))
    await container.wait()
    left = int(log(runtime))

    await eventually(lambda: processes.ended(left))


async def test_they_are_killed_too_when_nobody_waited_for_the_main_one_before_it_ended(runtime):
    container = await runtime.start("u1", launch("sleep 100 & echo $!"))
    await eventually(lambda: not container.running)

    await container.wait()

    await eventually(lambda: processes.ended(int(log(runtime))))


async def test_a_container_is_found_again_by_another_runtime(runtime, root):
    await runtime.start("u1", launch("echo up; exec sleep 100"))
    await eventually(lambda: log(runtime))  # a shell that has just been started does not heed SIGTERM as it will

    found = Runtime(root / "pods", cdi=CdiCache([])).containers("u1")[0]

    assert found.running
    assert (await found.stop(PATIENCE)).code == 128 + signal.SIGTERM


async def test_the_end_of_a_container_is_known_to_a_runtime_that_was_not_there(runtime, root):
    container = await runtime.start("u1", launch("exit 9"))
    await container.wait()

    found = Runtime(root / "pods", cdi=CdiCache([])).containers("u1")[0]

    assert not found.running
    assert (await found.wait()).code == 9


async def test_cdi_environment_overrides_the_containers(runtime, root):
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", env=["A=cdi", "ODD.NAME=x"])
    container = await runtime.start(
        "u1", launch("", argv=["env"], env={"A": "pod", "B": "pod"}, cdi_devices=[f"{KIND}=0"])
    )
    await container.wait()

    lines = log(runtime).splitlines()

    assert {"A=cdi", "B=pod", "ODD.NAME=x"} <= set(lines)
    assert "A=pod" not in lines


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"argv": ["no-such-program"]}, 'exec: "no-such-program": executable file not found in $PATH'),
        ({"argv": ["/no/such/program"]}, 'exec: "/no/such/program": no such file or directory'),
        ({"workdir": "/no/such/dir"}, 'chdir to cwd ("/no/such/dir")'),
    ],
)
async def test_what_cannot_be_started_is_an_error_of_the_runtime(runtime, changes, text):
    with pytest.raises(CreateError) as error:
        await runtime.start("u1", launch("", **changes))

    assert error.value.reason == "RunContainerError"
    assert text in str(error.value)


async def test_a_mount_of_a_path_that_is_not_there_is_an_error(runtime, root):
    mount = {"hostPath": "/no/such/lib.so", "containerPath": "/lib.so", "options": ["bind"]}
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", mounts=[mount])

    with pytest.raises(CreateError, match=r"mount src=/no/such/lib\.so: no such file or directory"):
        await runtime.start("u1", launch("true", cdi_devices=[f"{KIND}=0"]))


async def test_a_hook_that_is_not_there_is_an_error(runtime, root):
    hook = {"hookName": "createContainer", "path": "/no/such/hook"}
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", hooks=[hook])

    with pytest.raises(CreateError, match="error running createContainer hook"):
        await runtime.start("u1", launch("true", cdi_devices=[f"{KIND}=0"]))


async def test_containers_do_not_outlive_a_killed_process_unless_they_may(root):
    (root / "cdi").mkdir()
    program = f"""
import asyncio, os, signal
from pathlib import Path
from driver.sim.kubelet.cdi import CdiCache
from driver.sim.kubelet.containers import Launch, Runtime

async def main():
    runtime = Runtime(Path({str(root / "pods")!r}), cdi=CdiCache([]), outlive=False)
    runtime.create_sandbox({POD!r})
    await runtime.start("u1", Launch(name="c", attempt=0, argv=["sh", "-c", "echo up; exec sleep 100"], env={{}}))
    while not runtime.log_file("u1", "c", 0).read_text():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    await process.wait()

    container = Runtime(root / "pods", cdi=CdiCache([])).containers("u1")[0]

    await eventually(lambda: not container.running)
