"""Removing what rules call ours, and nothing else: by name, by type, by content, and never through a link.

Every step goes through the descriptor of the directory that holds the entry, opened without following links, so nobody
who can write there can lead us to files elsewhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MAX_CONTENT = 8 << 20
"""Nothing of ours is bigger."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Check = Callable[[str, bytes], bool]
"""Whether a file of this name with this content is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What an entry of a directory has to be to be ours."""

    name: str
    """Regular expression for the whole name."""
    what: str
    """For people: a claim's record, a lock, …"""
    kind: int = stat.S_IFREG
    """Its type, as in ``stat.S_IFMT``."""
    check: Check | None = None
    """Whether the content is ours too; None where any content is."""
    inside: tuple[Rule, ...] = ()
    """What is ours in a directory."""

    def fits(self, name: str, mode: int) -> bool:
        """Whether name and type are as expected."""
        return stat.S_IFMT(mode) == self.kind and re.fullmatch(self.name, name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that is ours."""

    path: Path
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Something that stays, and why."""

    path: Path
    why: str


@dataclass(slots=True)
class Swept:
    """The outcome of a walk."""

    items: list[Item] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


class Walk:
    """One pass over directories; with ``remove`` off it only says what it would do."""

    def __init__(self, *, remove: bool, trust_names: bool, busy: Callable[[Path], str]) -> None:
        """``trust_names``: content does not count. ``busy`` says who uses a socket, empty for nobody."""
        self._remove = remove
        self._trust_names = trust_names
        self._busy = busy
        self.swept = Swept()

    def directory(self, path: Path, rules: tuple[Rule, ...], *, strangers: bool) -> None:
        """What is ours in a directory; it stays itself. Links in the path are the operator's and are followed.

        ``strangers``: whether entries that no rule knows are reported; in a directory of ours they are.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self.swept.left.append(Left(path=path, why=f"cannot be read: {error.strerror}"))
            return
        try:
            self._entries(descriptor, path, rules, strangers=strangers)
        finally:
            os.close(descriptor)

    def _entries(self, descriptor: int, path: Path, rules: tuple[Rule, ...], *, strangers: bool) -> bool:
        """Whether the directory is empty in the end."""
        empty = True
        for name in sorted(os.listdir(descriptor)):
            entry = path / name
            try:
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            rule = next((rule for rule in rules if rule.fits(name, mode)), None)
            if rule is None:
                empty = False
                if strangers:
                    self._keep(entry, "a link" if stat.S_ISLNK(mode) else "not known as this driver's")
                continue
            try:
                empty = self._entry(descriptor, name, entry, rule) and empty
            except FileNotFoundError:
                continue
            except OSError as error:
                empty = False
                self._keep(entry, f"{rule.what} that cannot be removed: {error.strerror}")
        return empty

    def _entry(self, parent: int, name: str, path: Path, rule: Rule) -> bool:
        """Whether it is gone, or would be."""
        if rule.kind == stat.S_IFDIR:
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                if not self._entries(descriptor, path, rule.inside, strangers=True):
                    return False
            finally:
                os.close(descriptor)
            if self._remove:
                os.rmdir(name, dir_fd=parent)
        else:
            why = self._reason_to_keep(parent, name, path, rule)
            if why:
                self._keep(path, why)
                return False
            if self._remove:
                os.unlink(name, dir_fd=parent)
        self.swept.items.append(Item(path=path, what=rule.what))
        return True

    def _reason_to_keep(self, parent: int, name: str, path: Path, rule: Rule) -> str:
        if rule.kind == stat.S_IFSOCK:
            return self._busy(path)
        if rule.check is None or self._trust_names:
            return ""
        descriptor = os.open(name, _FILE, dir_fd=parent)
        try:
            content = _read(descriptor)
        finally:
            os.close(descriptor)
        return "" if rule.check(name, content) else f"it has the name of {rule.what}, and not the content"

    def _keep(self, path: Path, why: str) -> None:
        self.swept.left.append(Left(path=path, why=why))


def _read(descriptor: int) -> bytes:
    chunks, size = [], 0
    while size <= MAX_CONTENT and (chunk := os.read(descriptor, 1 << 20)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)
