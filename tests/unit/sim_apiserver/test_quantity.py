"""Quantities: canonical as the real server answers them (recorded from v1.36.2), exact in arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.sim import quantity


@pytest.mark.parametrize(
    ("given_text", "canonical"),
    [
        ("81920Mi", "80Gi"),
        ("1024Mi", "1Gi"),
        ("1025Mi", "1025Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.25Ki", "256"),
        ("1024", "1024"),
        ("1000000", "1M"),
        ("1500m", "1500m"),
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1.0", "1"),
        ("-1", "-1"),
        ("0", "0"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("1e30", "1e30"),
        ("0.1n", "1n"),
        ("1001M", "1001M"),
        ("1Ei", "1Ei"),
    ],
)
def test_a_quantity_is_answered_in_canonical_form(given_text: str, canonical: str) -> None:
    assert quantity.canonical(given_text) == canonical


@pytest.mark.parametrize("text", ["", "abc", "1 Gi", "5e", "1Gi1", "--1", "."])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantity.parse(text)


def test_values_are_exact() -> None:
    assert quantity.parse("0.1") * 3 == Fraction(3, 10)


@given(st.integers(-(10**24), 10**24), st.sampled_from(["", "k", "M", "G", "m", "Ki", "Mi", "Gi", "Ti"]))
def test_the_canonical_form_has_the_same_value_and_is_stable(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    canonical = quantity.canonical(text)
    assert quantity.parse(canonical) == quantity.parse(text)
    assert quantity.canonical(canonical) == canonical
