"""Label and field selectors, as they stand in a query string."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import bad_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.sim.apiserver.resource import Resource

    Labels = Mapping[str, str]
    LabelSelector = Callable[[Labels], bool]
    FieldSelector = Callable[[Mapping[str, Any]], bool]

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_.]*(?:/[A-Za-z0-9][-A-Za-z0-9_.]*)?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUAL = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*")
_EXISTS = re.compile(rf"\s*(!?)\s*({_KEY})\s*")
_COMMA = re.compile(r",(?![^()]*\))")
"""A comma outside of parentheses."""


def _requirement(text: str) -> LabelSelector:
    if match := _SET.fullmatch(text):
        key, inside, values = match[1], match[2] == "in", {item.strip() for item in match[3].split(",")}
        return lambda labels: (labels.get(key) in values) is inside
    if match := _EQUAL.fullmatch(text):
        key, equal, wanted = match[1], match[2] != "!=", match[3]
        return lambda labels: (labels.get(key) == wanted) is equal
    if match := _EXISTS.fullmatch(text):
        key, absent = match[2], bool(match[1])
        return lambda labels: (key in labels) is not absent
    raise bad_request(f"unable to parse requirement: found '{text.strip()}', expected a label requirement")


def parse_labels(text: str) -> LabelSelector | None:
    """A predicate on an object's labels; None selects everything. Raises StatusError 400."""
    if not text.strip():
        return None
    requirements = [_requirement(part) for part in _COMMA.split(text)]
    return lambda labels: all(requirement(labels) for requirement in requirements)


_FIELD = re.compile(r"([^=!]+)(==|=|!=)(.*)", re.DOTALL)


def parse_fields(text: str, resource: Resource) -> FieldSelector | None:
    """A predicate on an object; None selects everything. Raises StatusError 400 for a field that cannot select."""
    terms: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        match = _FIELD.fullmatch(part)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        key, operator, wanted = match.groups()
        if key not in ("metadata.name", "metadata.namespace", *resource.fields):
            kind = f"{resource.group_version}, Kind={resource.kind}"
            raise bad_request(f"field label not supported for {kind}: {key}")
        terms.append((key, operator != "!=", wanted))
    if not terms:
        return None
    return lambda obj: all((_field(obj, key) == wanted) is equal for key, equal, wanted in terms)


def _field(obj: Mapping[str, Any], path: str) -> str:
    value: Any = obj
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if path == "source":
        value = (value or {}).get("component")
    return "" if value is None else str(value)


def match_label_selector(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a ``LabelSelector`` object (matchLabels, matchExpressions) selects these labels."""
    for key, wanted in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != wanted:
            return False
    return all(meets(labels, term) for term in selector.get("matchExpressions") or [])


def meets(labels: Labels, requirement: Mapping[str, Any]) -> bool:
    """Whether a requirement of a label or node selector (key, operator, values) holds."""
    found, values = labels.get(requirement["key"]), requirement.get("values") or []
    answers = {
        "In": found in values,
        "NotIn": found not in values,
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }
    return answers.get(requirement["operator"], False)
