"""Kubernetes quantities such as ``80Gi``, and what they are worth."""

from __future__ import annotations

import re
from decimal import Context, Decimal

QUANTITY = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,2}|[KMGTPE]i|[numkMGTPE])?")
_EXACT = Context(prec=100)
"""Digits: enough for any number of the pattern, times any suffix."""
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")


def is_quantity(text: str) -> bool:
    """Whether it is an amount of a capacity that can be computed with."""
    return QUANTITY.fullmatch(text) is not None


def parse_quantity(text: str) -> Decimal:
    """The value of a Kubernetes quantity such as ``80Gi``. Raises ValueError."""
    number = text.rstrip("numkKMGTPEi")
    try:
        return _EXACT.multiply(Decimal(number), _SUFFIXES[text[len(number) :]])
    except (KeyError, ArithmeticError) as error:
        raise ValueError(f"{text!r} is not a quantity") from error


def format_quantity(number: int) -> str:
    """A whole number >= 0 as a Kubernetes quantity in its canonical form: what the server sends back is the same."""
    base, suffixes = (1024, _BINARY) if number % 1024 == 0 else (1000, _DECIMAL)
    power = 0
    while number and number % base == 0 and power < len(suffixes) - 1:
        number //= base
        power += 1
    return f"{number}{suffixes[power]}"
