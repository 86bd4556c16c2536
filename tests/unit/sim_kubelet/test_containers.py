"""Containers as processes: edits, ends, adoption, and what cannot be started."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from driver.sim.kubelet import isolation
from driver.sim.kubelet.cdi import CdiCache, Injection
from driver.sim.kubelet.containers import CreateError, Launch, Runtime
from tests.eventually import PATIENCE, eventually
from tests.needs import NO_ROOT
from tests.unit.sim_kubelet.fakes import write_spec

POD = {"metadata": {"uid": "u1", "namespace": "ns", "name": "p"}}
KIND = "k8s.gpu.example.com/claim"
EMPTY = {"hostPath": "tmpfs", "containerPath": "/opt/empty", "type": "tmpfs"}
CHURNED = 40
CHURN = """
trap 'stop=1' TERM
while [ ! "$stop" ]; do
    for number in 1 2 3; do mkdir "$1-$number" && mount -t tmpfs tmpfs "$1-$number"; done
    for number in 1 2 3; do umount "$1-$number" && rmdir "$1-$number"; done
done
"""


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

    def ended():
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, 0)
            return Path(f"/proc/{left}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return True

    await eventually(ended)


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


async def test_without_isolation_mounts_and_nodes_are_noted(root):
    (root / "cdi").mkdir()
    mount = {"hostPath": "/etc/hostname", "containerPath": "/x", "options": ["bind"]}
    node = {"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 0}
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", mounts=[mount], deviceNodes=[node])
    runtime = Runtime(root / "pods", cdi=CdiCache([root / "cdi"]), isolate=False)
    runtime.create_sandbox(POD)

    container = await runtime.start("u1", launch("true", cdi_devices=[f"{KIND}=0"]))
    await container.wait()

    assert container.not_applied == ("mount /x", "device node /dev/gpu0")


async def test_mounts_and_device_nodes_are_in_the_container_and_nowhere_else(runtime, root):
    if not await isolation.possible():
        pytest.skip(NO_ROOT)
    (root / "library").write_text("from the host")
    mount = {
        "hostPath": str(root / "library"),
        "containerPath": "/opt/no-such-dir/library",
        "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
    }
    node = {"path": "/dev/fakegpu0", "type": "c", "major": 1, "minor": 5}
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", mounts=[mount], deviceNodes=[node])
    script = (
        "cat /opt/no-such-dir/library; echo; head -c 1 /dev/fakegpu0 | od -An -tx1; ls /dev | grep -c loop; "
        "echo x >/opt/no-such-dir/library || echo read-only"
    )

    container = await runtime.start("u1", launch(script, cdi_devices=[f"{KIND}=0"]))
    end = await container.wait()

    assert log(runtime).splitlines()[:3] == ["from the host", " 00", "0"], log(runtime)
    assert "read-only" in log(runtime)
    assert end.code == 0
    assert container.not_applied == ()
    assert not exists("/dev/fakegpu0")
    assert not exists("/opt/no-such-dir")


async def test_a_step_of_the_making_that_fails_is_an_error_of_the_start_and_says_which(runtime, root):
    if not await isolation.possible():
        pytest.skip(NO_ROOT)
    mount = {"hostPath": "none", "containerPath": "/x", "type": "nosuchfs"}
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", mounts=[mount])

    container = await runtime.start("u1", launch("echo up", cdi_devices=[f"{KIND}=0"]))
    end = await container.wait()

    assert end.code == 128
    assert "failed to create containerd task" in end.start_error
    assert "/root/x" in end.start_error
    assert log(runtime) == ""


async def test_a_program_that_fails_after_its_start_is_no_error_of_the_start(runtime, root):
    if not await isolation.possible():
        pytest.skip(NO_ROOT)
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", mounts=[EMPTY])

    container = await runtime.start("u1", launch("echo said >&2; exit 32", cdi_devices=[f"{KIND}=0"]))
    end = await container.wait()

    assert (end.code, end.start_error) == (32, "")
    assert log(runtime) == "said\n"


async def test_a_mount_of_the_host_that_goes_before_its_turn_is_left_out(root):
    if not await isolation.possible():
        pytest.skip(NO_ROOT)
    base, point, failure = root / "base", root / "point", root / "failure"
    base.mkdir()
    point.mkdir()
    await run("mount", "-t", "tmpfs", "tmpfs", str(point))
    try:
        command = isolation.command(base, Injection(), "/", ["echo", "up"], failure=failure)
    finally:
        await run("umount", str(point))
    point.rmdir()

    assert str(point) in " ".join(command)
    assert await run(*command) == "up\n"
    assert not failure.exists()


async def test_containers_start_while_mounts_of_the_host_come_and_go(runtime, root):
    if not await isolation.possible():
        pytest.skip(NO_ROOT)
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", mounts=[EMPTY])
    for number in range(CHURNED):
        runtime.create_sandbox({"metadata": {**POD["metadata"], "uid": f"churn-{number}"}})
    churn = await asyncio.create_subprocess_exec("sh", "-c", CHURN, "churn", str(root / "point"))
    slots = asyncio.Semaphore(6)

    async def one(number):
        async with slots:
            container = await runtime.start(f"churn-{number}", launch("true", cdi_devices=[f"{KIND}=0"]))
            return await container.wait()

    try:
        ends = await asyncio.gather(*(one(number) for number in range(CHURNED)))
    finally:
        churn.terminate()
        await churn.wait()

    assert {(end.code, end.start_error) for end in ends} == {(0, "")}


async def test_hooks_of_the_creation_run_on_the_container_s_root_with_the_state_on_stdin(runtime, root):
    if not await isolation.possible():
        pytest.skip(NO_ROOT)
    program = root / "hook"
    program.write_text(
        "#!/bin/sh\n"
        """bundle=$(sed 's/.*"bundle": "\\([^"]*\\)".*/\\1/')\n"""
        """path=$(sed 's/.*"path": "\\([^"]*\\)".*/\\1/' "$bundle/config.json")\n"""
        'echo "$1 $WHO" >"$path/made-by-hook"\n'
    )
    program.chmod(0o755)
    hook = {"hookName": "createContainer", "path": str(program), "args": ["hook", "greets"], "env": ["WHO=me"]}
    later = {"hookName": "poststart", "path": str(program)}
    write_spec(root / "cdi" / "a.json", kind=KIND, name="0", hooks=[hook, later])

    container = await runtime.start("u1", launch("cat /made-by-hook", cdi_devices=[f"{KIND}=0"]))
    await container.wait()

    assert log(runtime) == "greets me\n"
    assert container.not_applied == (f"hook poststart {program}",)
    assert not exists("/made-by-hook")


async def test_containers_do_not_outlive_a_killed_process_unless_they_may(root):
    (root / "cdi").mkdir()
    program = f"""
import asyncio, os, signal
from pathlib import Path
from driver.sim.kubelet.cdi import CdiCache, Injection
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
