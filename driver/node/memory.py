"""The process's memory: every GPU node pays for it, for as long as the driver runs."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from asyncio.sslproto import SSLProtocol

PERIOD = 30.0
TLS_BUFFER = 1 << 15
"""Bytes; a record of TLS has 16 KiB."""


def begin() -> None:
    """To be called before anything is connected: asyncio fills 256 KiB for each connection over TLS, to read into."""
    SSLProtocol.max_size = TLS_BUFFER


def settle() -> None:
    """To be called once what lives long is there: collect, and never look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # a prepare leaves hardly a cycle; looking for them took 8 %


async def give_back() -> None:
    """Return free memory to the kernel, for ever: reading hardware and publishing take some only for a moment.

    Takes a millisecond or two each time. Other C libraries than glibc do so by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        trim(0)
        await asyncio.sleep(PERIOD)
