"""The one way into NVIDIA's management library: found, loaded, initialised, asked, and begun anew when that is due."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import posixpath
import threading
import time
from typing import TYPE_CHECKING, Any

from driver.base.repeat_filter import AGAIN_SECONDS, RepeatFilter
from driver.hardware.backend import BackendError
from driver.hardware.host import libraries
from driver.hardware.model import is_uuid
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.return_codes import NvmlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from driver.hardware.host.root import DriverRoot

logger = logging.getLogger(__name__)

NAME = "libnvidia-ml.so.1"
PATIENCE = 5.0
"""How long a new session waits for calls of the former one to end."""
NO_INSTANCE = 0xFFFFFFFF
"""What an event has in place of an instance's id where it is laid to none."""
_NO_GPUS = 1
"""NVML_INIT_FLAG_NO_GPUS: a driver whose GPUs are all lost, or with somebody else, is one that can be talked to."""

# What older or partial libraries have in place of the symbol that pynvml calls; the arguments are the same.
_OLDER = {
    "nvmlInitWithFlags": ("nvmlInit_v2", "nvmlInit"),
    "nvmlDeviceGetCount": ("nvmlDeviceGetCount",),
    "nvmlDeviceGetHandleByIndex": ("nvmlDeviceGetHandleByIndex",),
    "nvmlDeviceGetPciInfo": ("nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"),
    "nvmlEventSetWait_v2": ("nvmlEventSetWait",),
    "nvmlSystemGetCudaDriverVersion": ("nvmlSystemGetCudaDriverVersion_v2",),
}


_INSTALL = (
    "Install or load NVIDIA's driver on this node, name the directory that it is installed in with --driver-root, "
    "or choose --devices fake:<profile>"
)
_SEE = "NVIDIA's driver is there but does not start: see what nvidia-smi and the kernel log (dmesg) say on this node"
_PRIVILEGED = "Run the driver's pod privileged, so that it may open /dev/nvidiactl, and see that this file is there"
_REMEDIES = {
    return_codes.NO_PERMISSION: _PRIVILEGED,
    return_codes.OPERATING_SYSTEM: _PRIVILEGED,
    return_codes.LIB_RM_VERSION_MISMATCH: "Drain and reboot this node, or load the kernel modules of the new version",
    **dict.fromkeys(
        (
            return_codes.TIMEOUT,
            return_codes.INSUFFICIENT_POWER,
            return_codes.IRQ_ISSUE,
            return_codes.CORRUPTED_INFOROM,
            return_codes.GPU_IS_LOST,
            return_codes.RESET_REQUIRED,
            return_codes.GPU_NOT_FOUND,
            return_codes.UNKNOWN,
        ),
        _SEE,
    ),
}
"""What to do about a library that does not start, by its return code."""


class Library:
    """One session with NVML at a time. ``nvml`` is the module pynvml or something that looks like it.

    Every call goes through ``call`` or ``ask``. Whatever asks for more than one thing does so within ``session``:
    handles are good for one session only, and a new one begins when nobody is within.
    """

    def __init__(self, nvml: Any, root: DriverRoot | None = None) -> None:
        """``root`` is where the driver is installed; None leaves finding the library to pynvml."""
        self._nvml = nvml
        self._root = root
        self._gate = threading.Condition()
        self._inside = 0
        self._open = False
        self._repeats = RepeatFilter()
        self.number = 0
        """Grows with each session."""

    @property
    def nvml(self) -> Any:
        """The module, for its constants and structures."""
        return self._nvml

    @property
    def is_open(self) -> bool:
        """Whether the present session goes on, as far as any call has shown."""
        return self._open

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Be within a session, a new one if the last is over. Not to be nested. Raises BackendError."""
        with self._gate:
            deadline = time.monotonic() + PATIENCE
            while not self._open and self._inside:
                if not self._gate.wait(deadline - time.monotonic()):
                    raise BackendError("NVML has to be started anew, and a call from before has not ended yet")
            if not self._open:
                self._begin()
            self._inside += 1
        try:
            yield
        finally:
            with self._gate:
                self._inside -= 1
                self._gate.notify_all()

    def expire(self) -> None:
        """End this session: GPUs that have come since its beginning are seen by the next one only."""
        with self._gate:
            self._open = False

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Call a function of pynvml. Raises NvmlError, and nothing else."""
        nvml = self._nvml
        try:
            return self._function(function)(*arguments, **options)
        except nvml.NVMLError as error:
            code, text = int(error.value), _text(error)
        except getattr(nvml, "NVMLLibraryMismatchError", ()):
            code, text = return_codes.FUNCTION_NOT_FOUND, "Function Not Found"
        except (ValueError, TypeError, OSError, ctypes.ArgumentError, AttributeError) as error:
            # Bytes that are no text, or a pynvml that knows the function in another form.
            code, text = return_codes.UNKNOWN, f"{type(error).__name__}: {error}"
        if code == return_codes.FUNCTION_NOT_FOUND and (older := self._older(function, arguments)) is not None:
            return older
        if code in return_codes.SESSION_OVER:
            self.expire()
        raise NvmlError(function, code, text)

    def ask(self, function: str, *arguments: Any, trouble: dict[str, int] | None = None, **options: Any) -> Any:
        """The answer of a query; None where this library, driver, user or GPU cannot give it.

        ``trouble`` gets the return code by the function's name.
        """
        try:
            return self.call(function, *arguments, **options)
        except NvmlError as error:
            if trouble is not None:
                trouble[function] = error.code
            self._complain(error)
            return None

    def probe(self, function: str, *arguments: Any, trouble: dict[str, int] | None = None, **options: Any) -> Any:
        """As ``ask``, for what is expected to fail where a GPU has no such thing: nothing is logged."""
        try:
            return self.call(function, *arguments, **options)
        except NvmlError as error:
            if trouble is not None:
                trouble[function] = error.code
            return None

    def device(self, uuid: str, index: int) -> Any:
        """The handle of a GPU by its UUID; by its index where that cannot be asked for. Raises NvmlError."""
        if not is_uuid(uuid):
            return self.call("nvmlDeviceGetHandleByIndex", index)
        try:
            return self.call("nvmlDeviceGetHandleByUUID", uuid)
        except NvmlError as error:
            if index < 0 or error.code in {return_codes.NOT_FOUND, *return_codes.SESSION_OVER}:
                raise
            return self._by_index(uuid, index, error)

    def _by_index(self, uuid: str, index: int, error: NvmlError) -> Any:
        """A GPU that cannot be had by its UUID: NVML opens others while it looks, and says what is wrong with those."""
        try:
            handle = self.call("nvmlDeviceGetHandleByIndex", index)
        except NvmlError as own:
            raise (own if own.code in return_codes.LOST else error) from None
        try:
            told = self.call("nvmlDeviceGetUUID", handle)
        except NvmlError as own:
            if return_codes.FUNCTION_NOT_FOUND in {own.code, error.code} and own.code not in return_codes.LOST:
                return handle
            raise (own if own.code in return_codes.LOST else error) from None
        if told != uuid:
            raise error
        return handle

    def constant(self, name: str, default: Any) -> Any:
        """A constant of pynvml that not all of its versions have."""
        return getattr(self._nvml, name, default)

    def _function(self, name: str) -> Callable[..., Any]:
        function = getattr(self._nvml, name, None)
        if function is None:
            raise self._nvml.NVMLError(return_codes.FUNCTION_NOT_FOUND)
        return function  # type: ignore[no-any-return]

    def _complain(self, error: NvmlError) -> None:
        if error.code in return_codes.CANNOT_TELL:
            logger.debug("%s", error)
            return
        # By function and code: GPUs that fail in different ways must not take turns.
        if self._repeats.is_news(f"{error.function}, {error.code}", error.function):
            logger.warning("%s (said again in %.0f minutes at the earliest)", error, AGAIN_SECONDS / 60)

    def _begin(self) -> None:
        if self.number:  # let go of a driver that somebody may want to unload; it may be gone already
            with contextlib.suppress(NvmlError):
                self.call("nvmlShutdown")
        self._load()
        try:
            self.call("nvmlInitWithFlags", _NO_GPUS)
        except NvmlError as error:
            if error.code != return_codes.ALREADY_INITIALIZED:
                raise BackendError(self._no_driver(error)) from None
        self._open = True
        self.number += 1

    def _no_driver(self, error: NvmlError) -> str:
        where = f" below {self._root.path}" if self._root is not None and not _is_ours(self._root) else ""
        if error.code != return_codes.LIBRARY_NOT_FOUND:
            why = error.reason
        elif error.function == "dlopen" and error.text:
            why = f"no {NAME}{where} can be loaded ({error.text})"
        else:
            why = f"there is no {NAME}{where}"
        return f"NVML cannot be used: {why}. {_REMEDIES.get(error.code, _INSTALL)}"

    def _load(self) -> None:
        """Have pynvml use the library of the driver root, which after an upgrade is another file than before."""
        if self._root is None:
            return
        nvml = self._nvml
        trouble = ""
        for path in find(self._root):
            try:
                # The real path: under a name that it knows already, the linker gives the library of before.
                library = ctypes.CDLL(str(path))
            except OSError as error:
                logger.debug("%s: %s", path, error)
                trouble = trouble or str(error)
                continue
            if nvml.nvmlLib is None or nvml.nvmlLib._handle != library._handle:
                logger.info("NVML is %s", path)
            nvml.nvmlLib = library
            nvml._nvmlGetFunctionPointer_cache.clear()
            return
        nvml.nvmlLib = None  # whatever the linker finds under the usual name, on a host of its own kind
        nvml._nvmlGetFunctionPointer_cache.clear()
        if not _is_ours(self._root):
            raise BackendError(self._no_driver(NvmlError("dlopen", return_codes.LIBRARY_NOT_FOUND, trouble)))

    def _older(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """The answer of a symbol that came before the one that is not there; None without such."""
        library = getattr(self._nvml, "nvmlLib", None)
        for symbol in _OLDER.get(function, ()):
            entry = getattr(library, symbol, None)
            if entry is not None:
                return self._call_older(function, entry, arguments)
        return None

    def _call_older(self, function: str, entry: Any, arguments: tuple[Any, ...]) -> Any:
        nvml = self._nvml
        result: Any = None
        match function:
            case "nvmlInitWithFlags":
                code, result = entry(), True
            case "nvmlDeviceGetCount" | "nvmlSystemGetCudaDriverVersion":
                number = ctypes.c_uint()
                code = entry(ctypes.byref(number))
                result = number.value
            case "nvmlDeviceGetHandleByIndex":
                result = nvml.c_nvmlDevice_t()
                code = entry(ctypes.c_uint(arguments[0]), ctypes.byref(result))
            case "nvmlDeviceGetPciInfo":
                result = nvml.nvmlPciInfo_t()
                code = entry(arguments[0], ctypes.byref(result))
            case _:
                result = nvml.c_nvmlEventData_t(gpuInstanceId=NO_INSTANCE, computeInstanceId=NO_INSTANCE)
                code = entry(arguments[0], ctypes.byref(result), ctypes.c_uint(arguments[1]))
        if code:
            error = NvmlError(function, int(code), _text(nvml.NVMLError(int(code))))
            if error.code in return_codes.SESSION_OVER:
                self.expire()
            raise error
        return result


def find(root: DriverRoot) -> Iterator[Path]:
    """Files that may be NVML, the likeliest first; in our own root, LD_LIBRARY_PATH has the first word."""
    machine = os.uname().machine
    own = os.environ.get("LD_LIBRARY_PATH", "").split(":") if _is_ours(root) else []
    directories = [*filter(None, own), *libraries.directories(root, machine), "/lib64", "/lib"]
    seen = set()
    for directory in directories:
        inside = root.resolve(posixpath.join(directory, NAME))
        if inside is not None and inside not in seen:
            seen.add(inside)
            yield root.here(inside)


def _is_ours(root: DriverRoot) -> bool:
    """Whether the linker of this process looks in the same places."""
    return str(root.path) == "/"


def _text(error: Exception) -> str:
    """NVML's words for an error, which it takes from the library."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a library that cannot even say what is wrong
        return f"error {getattr(error, 'value', 'unknown')}"
