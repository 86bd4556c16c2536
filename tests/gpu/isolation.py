"""A container's view of files: the host's root copy-on-write, a ``/dev`` of its own, and the CDI edits in them.

Hooks that a runtime starts while it makes a container are started as well, with the state that they expect on stdin.
Mounts of the host come and go all the time, other containers' above all: one that is gone before its turn comes is left
out, as if it had gone a moment earlier.

Needs root, mount namespaces and overlayfs. ``possible`` tells whether this machine has them.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from driver.sim.kubelet.cdi import Injection
    from driver.sim.kubelet.cdispec import DeviceNode, Hook, Mount

COMMON_NODES = ("null", "zero", "full", "random", "urandom", "tty")
HOOKS = ("prestart", "createRuntime", "createContainer")
"""Kinds of hooks in the order in which a runtime starts them, all before it enters the container's root."""
UNSHARE = ("unshare", "--mount", "--propagation", "private")
"""What the host mounts and unmounts from then on is not seen, and the other way round."""
_BIND_POINT = 'bind_point() { mount --rbind "$1" "$root$1" || ! mountpoint -q "$1"; }'
"""Here a mount that has gone never comes back: its directory was removed, or it went before the namespace was made."""
_FLAGS = frozenset({"ro", "nosuid", "nodev", "noexec"})
_PROPAGATION = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"})


async def possible() -> bool:
    """Try it out once, in a namespace that is gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="isolation-"))
    try:
        probe = script(base, mount_points=("/proc",), nodes=(), mounts=()) + 'mknod "$root/dev/probe" c 1 3\n'
        process = await asyncio.create_subprocess_exec(
            *(*UNSHARE, "sh", "-c", probe),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait() == 0
    except OSError:
        return False
    finally:
        shutil.rmtree(base, ignore_errors=True)


def command(base: Path, injection: Injection, workdir: str, argv: Iterable[str], *, failure: Path) -> list[str]:
    """An argument vector that runs ``argv`` with the mounts and device nodes of an injection; ``base`` is scratch.

    If ``argv`` is never reached, ``failure`` is there afterwards and says why.
    """
    begin = (
        f"failure={shlex.quote(str(failure))}\n"
        'exec 3>&2 2>"$failure.tmp"\n'
        """trap 'mv "$failure.tmp" "$failure"' EXIT\n"""  # neither a signal nor exec comes by here
    )
    setup = script(
        base,
        mount_points=top_mount_points(Path("/proc/self/mountinfo").read_text(encoding="utf-8")),
        nodes=injection.device_nodes,
        mounts=injection.mounts,
        hooks=injection.hooks,
    )
    enter = 'exec 2>&3 3>&-\nexec chroot "$root" sh -c \'cd "$1" && shift && exec "$@"\' sh "$@"\n'
    return [*UNSHARE, "sh", "-c", begin + setup + enter, "sh", workdir, *argv]


def script(
    base: Path,
    *,
    mount_points: Iterable[str],
    nodes: Iterable[DeviceNode],
    mounts: Iterable[Mount],
    hooks: Sequence[Hook] = (),
) -> str:
    """A shell script that builds the root directory ``$root`` and ends at the first step that fails."""
    return "\n".join([*root_lines(base, mount_points), *edit_lines(base, nodes, mounts, hooks)]) + "\n"


def root_lines(base: Path, mount_points: Iterable[str], image: Path = Path("/")) -> list[str]:
    """Lines that build the root of a container: what an image has, and these mount points of the host."""
    return [
        "set -e",
        f"base={shlex.quote(str(base))}",
        'root="$base/root"',
        'mount -t tmpfs tmpfs "$base"',
        'mkdir "$base/upper" "$base/work" "$root"',
        f"image={shlex.quote(str(image))}",
        'mount -t overlay -o "lowerdir=$image,upperdir=$base/upper,workdir=$base/work" overlay "$root"',
        _BIND_POINT,
        *(f"bind_point {shlex.quote(point)}" for point in mount_points),
        'mkdir -p "$root/dev"',
        'mount -t tmpfs -o mode=755 tmpfs "$root/dev"',
        f'cp -a {" ".join(f"/dev/{node}" for node in COMMON_NODES)} "$root/dev"',
        'mkdir -m 1777 "$root/dev/shm"',
        'ln -s /proc/self/fd "$root/dev/fd"',
    ]


def edit_lines(
    base: Path, nodes: Iterable[DeviceNode], mounts: Iterable[Mount], hooks: Sequence[Hook] = ()
) -> list[str]:
    """Lines that change such a root as CDI edits say."""
    lines = [line for node in nodes for line in _node_lines(node)]
    lines += [line for mount in mounts for line in _mount_lines(mount)]
    for kind in HOOKS:
        lines += [line for hook in hooks if hook.hook_name == kind for line in _hook_lines(base, hook)]
    return lines


def top_mount_points(mountinfo: str) -> list[str]:
    """Mount points besides ``/`` and ``/dev`` that lie in no other one; those below come along."""
    points = sorted({line.split()[4].replace("\\040", " ") for line in mountinfo.splitlines() if line.strip()})
    top: list[str] = []
    for point in points:
        if point != "/" and not any(point == other or point.startswith(f"{other}/") for other in ("/dev", *top)):
            top.append(point)
    return top


def _is_bind(mount: Mount) -> bool:
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def _mount_lines(mount: Mount) -> list[str]:
    target = f'"$root"{shlex.quote(mount.container_path)}'
    source = shlex.quote(mount.host_path)
    options = [option for option in mount.options if option not in _PROPAGATION | {"bind", "rbind"}]
    if not _is_bind(mount):
        given = f"-o {shlex.quote(','.join(options))} " if options else ""
        return [f"mkdir -p {target}", f"mount -t {shlex.quote(mount.type)} {given}{source} {target}"]
    lines = [
        f"if [ -d {source} ]; then mkdir -p {target}; "
        f'else mkdir -p "$(dirname {target})"; [ -e {target} ] || : >{target}; fi',
        f"mount {'--rbind' if 'rbind' in mount.options else '--bind'} {source} {target}",
    ]
    flags = [option for option in options if option in _FLAGS]
    if flags:
        lines.append(f"mount -o remount,bind,{','.join(flags)} {target}")
    return lines


def _hook_lines(base: Path, hook: Hook) -> list[str]:
    """Source: the OCI runtime specification, "POSIX-platform Hooks" and "State"; args[0] is the path here."""
    state = {"ociVersion": "1.2.0", "id": base.name, "status": "creating", "bundle": str(base)}
    config = {"ociVersion": "1.2.0", "root": {"path": str(base / "root")}}
    words = " ".join(map(shlex.quote, ("env", "-i", *hook.env, hook.path, *hook.args[1:])))
    return [
        f'printf %s {shlex.quote(json.dumps(config))} >"$base/config.json"',
        f"printf %s {shlex.quote(json.dumps(state))} | {words}",
    ]


def _node_lines(node: DeviceNode) -> list[str]:
    target = f'"$root"{shlex.quote(node.path)}'
    numbers = "" if node.type == "p" else f" {node.major} {node.minor}"
    mode = (0o666 if node.file_mode is None else node.file_mode) & 0o7777
    lines = [
        f'mkdir -p "$(dirname {target})"',
        f"rm -f {target}",
        f"mknod -m {mode:o} {target} {node.type}{numbers}",
    ]
    if node.uid is not None or node.gid is not None:
        lines.append(f"chown {node.uid or 0}:{node.gid or 0} {target}")
    return lines
