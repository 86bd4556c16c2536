"""Measurements of the real process on its sockets: ``python -m tests.bench``."""
