"""Label and field selectors, as they stand in a query string."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import bad_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Labels = Mapping[str, str]
    LabelSelector = Callable[[Labels], bool]
    FieldGetters = Mapping[str, Callable[[Mapping[str, Any]], str]]
    FieldSelector = Callable[[Mapping[str, Any]], bool]

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_.]*(?:/[A-Za-z0-9][-A-Za-z0-9_.]*)?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUAL = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*")
_COMPARE = re.compile(rf"\s*({_KEY})\s*([<>])\s*(-?\d+)\s*")
_EXISTS = re.compile(rf"\s*(!?)\s*({_KEY})\s*")


def _split(text: str) -> list[str]:
    """Split at commas outside of parentheses."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _requirement(text: str) -> LabelSelector:
    if match := _SET.fullmatch(text):
        key, operator, values = match[1], match[2], {item.strip() for item in match[3].split(",")}
        if operator == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    if match := _EQUAL.fullmatch(text):
        key, operator, wanted = match[1], match[2], match[3]
        if operator == "!=":
            return lambda labels: labels.get(key) != wanted
        return lambda labels: labels.get(key) == wanted
    if match := _COMPARE.fullmatch(text):
        key, operator, number = match[1], match[2], int(match[3])

        def compare(labels: Labels) -> bool:
            found = labels.get(key, "")
            if not re.fullmatch(r"-?\d+", found):
                return False
            return int(found) > number if operator == ">" else int(found) < number

        return compare
    if match := _EXISTS.fullmatch(text):
        key, absent = match[2], bool(match[1])
        return lambda labels: (key not in labels) if absent else (key in labels)
    raise bad_request(f"unable to parse requirement: found '{text.strip()}', expected a label requirement")


def parse_labels(text: str) -> LabelSelector | None:
    """A predicate on an object's labels; None selects everything. Raises StatusError 400."""
    if not text.strip():
        return None
    requirements = [_requirement(part) for part in _split(text)]
    return lambda labels: all(requirement(labels) for requirement in requirements)


_FIELD = re.compile(r"([^=!]+)(==|=|!=)(.*)", re.DOTALL)


def _unescape(text: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", text)


def parse_fields(text: str, getters: FieldGetters, kind: str = "") -> FieldSelector | None:
    """A predicate on an object; None selects everything. Only fields in ``getters`` are known, others are a 400."""
    if not text:
        return None
    terms: list[tuple[Callable[[Mapping[str, Any]], str], bool, str]] = []
    for part in re.split(r"(?<!\\),", text):
        if not part:
            continue
        match = _FIELD.fullmatch(part)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        key, operator, wanted = match.groups()
        getter = getters.get(key)
        if getter is None:
            raise bad_request(f"field label not supported{f' for {kind}' if kind else ''}: {key}")
        terms.append((getter, operator != "!=", _unescape(wanted)))
    return lambda obj: all((getter(obj) == wanted) is equal for getter, equal, wanted in terms)


def match_label_selector(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a ``LabelSelector`` object (matchLabels, matchExpressions) selects these labels."""
    for key, wanted in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != wanted:
            return False
    for term in selector.get("matchExpressions") or []:
        key, operator, values = term["key"], term["operator"], term.get("values") or []
        found = labels.get(key)
        matched = {
            "In": found in values and found is not None,
            "NotIn": found not in values,
            "Exists": found is not None,
            "DoesNotExist": found is None,
        }.get(operator, False)
        if not matched:
            return False
    return True
