"""Runs in a container that has nothing but its CDI edits: which GPUs CUDA sees, and whether it can copy memory.

Needs only the standard library. Prints one JSON object; ``error`` says at which call it ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

BYTES = 64 << 20


def call(cuda: ctypes.CDLL, name: str, *arguments: Any) -> None:
    code = getattr(cuda, name)(*arguments)
    if code:
        raise RuntimeError(f"{name} returned {code}")


def copy(cuda: ctypes.CDLL, device: int) -> float:
    """Copy to a GPU and back; seconds that it took."""
    context, there = ctypes.c_void_p(), ctypes.c_uint64()
    call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call(cuda, "cuCtxSetCurrent", context)
    sent, back = os.urandom(1 << 20) * (BYTES >> 20), ctypes.create_string_buffer(BYTES)
    call(cuda, "cuMemAlloc_v2", ctypes.byref(there), ctypes.c_size_t(BYTES))
    started = time.monotonic()
    call(cuda, "cuMemcpyHtoD_v2", there, sent, ctypes.c_size_t(BYTES))
    call(cuda, "cuMemcpyDtoH_v2", back, there, ctypes.c_size_t(BYTES))
    seconds = time.monotonic() - started
    call(cuda, "cuMemFree_v2", there)
    call(cuda, "cuDevicePrimaryCtxRelease_v2", device)
    if back.raw != sent:
        raise RuntimeError("what came back is not what was sent")
    return seconds


def probe() -> dict[str, Any]:
    found: dict[str, Any] = {
        "nodes": sorted(str(path) for path in Path("/dev").rglob("nvidia*") if not path.is_dir()),
        "gpus": [],
        "visible_devices": os.environ.get("NVIDIA_VISIBLE_DEVICES", ""),
    }
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        call(cuda, "cuInit", 0)
        version, count = ctypes.c_int(), ctypes.c_int()
        call(cuda, "cuDriverGetVersion", ctypes.byref(version))
        call(cuda, "cuDeviceGetCount", ctypes.byref(count))
        found["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
        for device in range(count.value):
            name, identity = ctypes.create_string_buffer(96), (ctypes.c_ubyte * 16)()
            call(cuda, "cuDeviceGetName", name, 96, device)
            call(cuda, "cuDeviceGetUuid_v2", identity, device)
            found["gpus"].append(
                {
                    "uuid": str(uuid.UUID(bytes=bytes(identity))),
                    "name": name.value.decode(),
                    "copied_bytes": BYTES,
                    "seconds": round(copy(cuda, device), 4),
                }
            )
    except (OSError, RuntimeError, AttributeError) as error:
        found["error"] = str(error)
    return found


if __name__ == "__main__":
    result = probe()
    print(json.dumps(result))
    sys.exit(1 if "error" in result else 0)
