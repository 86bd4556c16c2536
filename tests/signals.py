"""Signals for what tests start: it hears them however the tests themselves were started."""

from __future__ import annotations

import signal


def hears() -> None:
    """For ``preexec_fn``: what a shell starts in the background does not hear Ctrl-C, nor a hangup after nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
