"""Signals for what tests start: it hears them however the tests themselves were started."""

from __future__ import annotations

HEARS = ("env", "--default-signal=INT,HUP")
"""Before a command: what a shell starts in the background does not hear Ctrl-C, nor a hangup after nohup.

No ``preexec_fn``: with that Python forks, and gRPC tells of the fork in the output of what is started.
"""
