"""Which letter and which colour a namespace has; it keeps them, whoever else comes and goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

COLOURS = 10
"""The style sheet has so many; letters tell namespaces of one colour apart."""
MOST = 2000
"""Namespaces that are remembered; with more of them all get new letters."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Marks:
    """Given in the order in which namespaces are seen first."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def learn(self, namespaces: Iterable[str]) -> None:
        """These are there."""
        if len(self._numbers) > MOST:
            self._numbers.clear()
        for name in namespaces:
            self._numbers.setdefault(name, len(self._numbers))

    def letter(self, namespace: str) -> str:
        """``A`` to ``Z``, ``AA`` and so on; ``?`` for one that was never seen."""
        number, letters = self._numbers.get(namespace, -1), ""
        while number >= 0:
            number, letter = divmod(number, len(_LETTERS))
            letters = _LETTERS[letter] + letters
            number -= 1
        return letters or "?"

    def colour(self, namespace: str) -> int:
        """From 0 on."""
        return self._numbers.get(namespace, 0) % COLOURS
