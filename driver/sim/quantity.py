"""Kubernetes quantities ("80Gi", "100m", "1e3"): exact arithmetic and the canonical form of an API server's answer.

Rules of apimachinery's ``resource.Quantity``: no value is finer than nano (rounded up), the suffix family of the input
is kept (binary, decimal, or exponent), the largest suffix is used that leaves an integer mantissa.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil

_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX = {power: suffix for suffix, power in _BINARY.items()}
_PATTERN = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d{1,4}))?")
_NANO = 10**9

PATTERN_ERROR = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@lru_cache(maxsize=8192)
def _parse(text: str) -> tuple[Fraction, str]:
    """Value and suffix family: ``binary``, ``decimal`` or ``exponent``. Raises ValueError."""
    match = _PATTERN.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError(PATTERN_ERROR)
    sign, whole_part, part, binary_suffix, decimal, exponent = match.groups()
    number = Fraction(int((whole_part or "0") + (part or "")), 10 ** len(part or ""))
    family = "decimal"
    if binary_suffix:
        number *= 1024 ** _BINARY[binary_suffix]
        family = "binary"
    elif exponent is not None:
        number *= Fraction(10) ** int(exponent)
        family = "exponent"
    elif decimal:
        number *= Fraction(10) ** _DECIMAL[decimal]
    number = Fraction(ceil(number * _NANO), _NANO)
    return (-number if sign == "-" else number), family


def parse(quantity: str | float) -> Fraction:
    """The exact value. Raises ValueError for what is not a quantity."""
    return _parse(str(quantity))[0]


def binary(number: int) -> str:
    """A whole number with the largest binary suffix that loses nothing."""
    return _format(Fraction(number), "binary")


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The form in which an API server gives the quantity back. Raises ValueError for what is not one."""
    return _format(*_parse(text))


def _format(number: Fraction, family: str) -> str:
    if family == "binary" and number.denominator == 1:
        mantissa, power = int(number), 0
        while mantissa and power < 6 and mantissa % 1024 == 0:
            mantissa //= 1024
            power += 1
        return f"{mantissa}{_BINARY_SUFFIX.get(power, '')}"
    # A fraction of a binary suffix is written in decimal, as apimachinery does.
    mantissa, exponent = int(number * _NANO), -9
    while mantissa and (exponent < 18 or family == "exponent") and mantissa % 1000 == 0:
        mantissa //= 1000
        exponent += 3
    if not mantissa:
        exponent = 0
    if family == "exponent":
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    return f"{mantissa}{_SUFFIX[exponent]}"
