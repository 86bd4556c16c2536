"""Checks of single values that several kinds share: names, labels, conditions."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import FieldError, duplicate, invalid_value, required, too_long, too_many, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Errors = list[FieldError]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_ENDS = "and must start and end with an alphanumeric character"
_LABEL_MESSAGE = f"a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', {_ENDS}"
_SUBDOMAIN_MESSAGE = (
    f"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', {_ENDS}"
)
_NAME_MESSAGE = f"must consist of alphanumeric characters, '-', '_' or '.', {_ENDS}"


def _pattern(value: str, path: str, pattern: re.Pattern[str], limit: int, message: str) -> Errors:
    errors = [too_long(path, limit)] if len(value) > limit else []
    return errors if pattern.fullmatch(value) else [*errors, invalid_value(path, value, message)]


def dns_label(value: str, path: str) -> Errors:
    """A lower-case RFC 1123 label of at most 63 characters."""
    return _pattern(value, path, _LABEL, 63, _LABEL_MESSAGE)


def dns_subdomain(value: str, path: str, limit: int = 253) -> Errors:
    """A lower-case RFC 1123 subdomain."""
    return _pattern(value, path, _SUBDOMAIN, limit, _SUBDOMAIN_MESSAGE)


def path_segment(value: str, path: str) -> Errors:
    """A name that fits into a URL path."""
    fits = value not in {".", ".."} and not set("/%") & set(value)
    return [] if fits else [invalid_value(path, value, "may not be '.' or '..' or contain '/' or '%'")]


def driver_name(value: str, path: str) -> Errors:
    """A subdomain of at most 63 characters; upper case is let through."""
    return dns_subdomain(value.lower(), path, limit=63) if value else [required(path)]


def pool_name(value: str, path: str) -> Errors:
    """One or more subdomains joined by slashes, at most 253 characters."""
    if not value:
        return [required(path)]
    errors = [too_long(path, 253)] if len(value) > 253 else []
    return errors + [error for part in value.split("/") for error in dns_subdomain(part, path)]


def uid(value: str, path: str) -> Errors:
    """A lower-case RFC 4122 UUID."""
    wanted = "uid must be in RFC 4122 normalized form, with lowercase hexadecimal characters"
    return [] if _UUID.fullmatch(value) else [invalid_value(path, value, wanted)]


def label_name(value: str, path: str) -> Errors:
    """A qualified name ``[subdomain/]name`` as labels, taints and condition types have it."""
    prefix, slash, name = value.rpartition("/")
    errors = dns_subdomain(prefix, path) if slash else []
    return errors + _pattern(name, path, _NAME_PART, 63, f"name part {_NAME_MESSAGE}")


def label_value(value: str, path: str) -> Errors:
    """A label's or a taint's value."""
    return _pattern(value, path, _NAME_PART, 63, f"a valid label {_NAME_MESSAGE}") if value else []


def qualified_name(value: str, path: str) -> Errors:
    """Name of an attribute or a capacity: ``[domain/]identifier``, the identifier at most 32 characters."""
    domain, slash, name = value.partition("/")
    errors = driver_name(domain, path) if slash else []
    return errors + _pattern(name if slash else value, path, _C_IDENTIFIER, 32, "a valid C identifier is expected")


def fully_qualified_name(value: str, path: str) -> Errors:
    """``domain/identifier``."""
    wanted = "a fully qualified name must be a domain and a name separated by a slash"
    return qualified_name(value, path) + ([] if "/" in value else [invalid_value(path, value, wanted)])


def each(
    items: Sequence[Any],
    path: str,
    check: Callable[[Any, str], Errors] = lambda _item, _path: [],
    *,
    limit: int | None = None,
    key: Callable[[Any], Any] | None = None,
) -> Errors:
    """Check a list: its size (which ends the check), each item, and that ``key`` is unique."""
    if limit is not None and len(items) > limit:
        return [too_many(path, len(items), limit)]
    errors = [error for index, item in enumerate(items) for error in check(item, f"{path}[{index}]")]
    seen: set[Any] = set()
    for index, item in enumerate(items) if key else ():
        found = key(item) if key else None
        if found in seen:
            errors.append(duplicate(f"{path}[{index}]", found))
        seen.add(found)
    return errors


def immutable(new: Any, old: Any, path: str) -> Errors:
    """A field that may not change. Opaque parameters are compared byte by byte, so the order of keys counts."""
    same = new == old and [*_opaque(new)] == [*_opaque(old)]
    return [] if same else [invalid_value(path, new, "field is immutable")]


def _opaque(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in sorted(value.items()):
            if key == "parameters":
                yield json.dumps(inner)
            else:
                yield from _opaque(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _opaque(inner)


def raw_object(value: Any, path: str, limit: int) -> Errors:
    """A JSON object of at most ``limit`` bytes."""
    if value is None:
        return [required(path)]
    if len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()) > limit:
        return [too_long(path, limit)]
    return [] if isinstance(value, dict) else [invalid_value(path, "<value omitted>", "must be a valid JSON object")]


def conditions(items: Sequence[dict[str, Any]], path: str) -> Errors:
    """A list of metav1.Condition."""

    def check(item: dict[str, Any], where: str) -> Errors:
        errors = label_name(item.get("type", ""), f"{where}.type")
        if item.get("status", "") not in {"True", "False", "Unknown"}:
            errors.append(unsupported(f"{where}.status", item.get("status", ""), ("False", "True", "Unknown")))
        errors += [required(f"{where}.{key}") for key in ("lastTransitionTime", "reason") if not item.get(key)]
        if item.get("reason"):
            errors += _pattern(item["reason"], f"{where}.reason", _REASON, 1024, "a word like ReasonA is expected")
        if len(item.get("message", "").encode()) > 32768:
            errors.append(too_long(f"{where}.message", 32768))
        return errors

    return each(items, path, check, limit=8, key=lambda item: item.get("type", ""))
