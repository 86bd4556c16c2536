"""Checks of single values that several kinds share: names, labels, quantities, node selectors, conditions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import (
    FieldError,
    duplicate,
    forbidden_field,
    invalid_value,
    required,
    too_long,
    too_many,
    unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Errors = list[FieldError]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_DEVICE_KEYS = ("Driver", "Pool", "Device", "ShareID")
LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
NAME_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
C_MESSAGE = (
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters "
    "or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"
)


def max_bytes(limit: int) -> str:
    """The field's words for a string that is too long."""
    return f"must be no more than {limit} bytes"


def max_characters(limit: int) -> str:
    """The same for names, whose rules speak of characters."""
    return f"must be no more than {limit} characters"


def dns_label(value: str, path: str) -> Errors:
    """A lower-case RFC 1123 label of at most 63 characters."""
    errors = []
    if len(value) > 63:
        errors.append(invalid_value(path, value, max_characters(63)))
    if not _LABEL.fullmatch(value):
        errors.append(invalid_value(path, value, LABEL_MESSAGE))
    return errors


def dns_subdomain(value: str, path: str) -> Errors:
    """A lower-case RFC 1123 subdomain of at most 253 characters."""
    errors = []
    if len(value) > 253:
        errors.append(invalid_value(path, value, max_characters(253)))
    if not _SUBDOMAIN.fullmatch(value):
        errors.append(invalid_value(path, value, SUBDOMAIN_MESSAGE))
    return errors


def path_segment(value: str, path: str) -> Errors:
    """A name that fits into a URL path."""
    if value in {".", ".."}:
        return [invalid_value(path, value, f"may not be '{value}'")]
    return [invalid_value(path, value, f"may not contain '{char}'") for char in "/%" if char in value]


def driver_name(value: str, path: str) -> Errors:
    """A subdomain of at most 63 characters; upper case is let through."""
    if not value:
        return [required(path)]
    errors = [too_long(path, 63)] if len(value) > 63 else []
    return errors + [
        replace(error, body=error.body.replace(f'"{value.lower()}"', f'"{value}"', 1))
        for error in dns_subdomain(value.lower(), path)
    ]


def pool_name(value: str, path: str) -> Errors:
    """One or more subdomains joined by slashes, at most 253 characters."""
    if not value:
        return [required(path)]
    errors = [too_long(path, 253)] if len(value) > 253 else []
    return errors + [error for part in value.split("/") for error in dns_subdomain(part, path)]


def uid(value: str, path: str) -> Errors:
    """A lower-case RFC 4122 UUID."""
    if _UUID.fullmatch(value):
        return []
    if not _UUID.fullmatch(value.lower()):
        why = "invalid UUID format" if len(value) == 36 else f"invalid UUID length: {len(value)}"
        return [invalid_value(path, value, f"error validating uid: {why}")]
    wanted = (
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal "
        "characters"
    )
    return [invalid_value(path, value, wanted)]


def label_name(value: str, path: str) -> Errors:
    """A qualified name ``[subdomain/]name`` as labels, taints and condition types have it."""
    prefix, slash, name = value.rpartition("/")
    if slash and "/" in prefix:
        wanted = NAME_MESSAGE.replace("name part", "a valid label key", 1)
        detail = f"{wanted} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return [invalid_value(path, value, detail)]
    errors = []
    if slash and not prefix:
        errors.append(invalid_value(path, value, "prefix part must be non-empty"))
    elif slash:
        errors += [
            invalid_value(path, value, "prefix part " + error.body.split(": ", 2)[2])
            for error in dns_subdomain(prefix, path)
        ]
    if not name:
        errors.append(invalid_value(path, value, "name part must be non-empty"))
    elif len(name) > 63:
        errors.append(invalid_value(path, value, "name part " + max_bytes(63)))
    if not _NAME_PART.fullmatch(name):
        errors.append(invalid_value(path, value, NAME_MESSAGE))
    return errors


def label_value(value: str, path: str) -> Errors:
    """A label's or a taint's value."""
    errors = [invalid_value(path, value, max_bytes(63))] if len(value) > 63 else []
    if value and not _NAME_PART.fullmatch(value):
        errors.append(invalid_value(path, value, VALUE_MESSAGE))
    return errors


def c_identifier(value: str, path: str) -> Errors:
    """A C identifier of at most 32 characters."""
    errors = [too_long(path, 32)] if len(value) > 32 else []
    if not _C_IDENTIFIER.fullmatch(value):
        errors.append(invalid_value(path, value, C_MESSAGE))
    return errors


def qualified_name(value: str, path: str) -> Errors:
    """Name of an attribute or a capacity: ``[domain/]identifier``. Like the real server it lets ``a/b/c`` through."""
    parts = value.split("/")
    if len(parts) == 1:
        return c_identifier(value, path)
    if len(parts) > 2:
        return []
    domain, name = parts
    errors = driver_name(domain, path) if domain else [invalid_value(path, "", "the domain must not be empty")]
    return errors + (c_identifier(name, path) if name else [invalid_value(path, "", "the name must not be empty")])


def fully_qualified_name(value: str, path: str) -> Errors:
    """``domain/identifier``."""
    errors = qualified_name(value, path)
    if "/" not in value:
        wanted = "a fully qualified name must be a domain and a name separated by a slash"
        errors.append(invalid_value(path, value, wanted))
    return errors


def each(
    items: Sequence[Any],
    path: str,
    check: Callable[[Any, str], Errors],
    *,
    limit: int | None = None,
    key: Callable[[Any], Any] | None = None,
) -> Errors:
    """Check a list: its size (which ends the check), each item, and that ``key`` is unique."""
    if limit is not None and len(items) > limit:
        return [too_many(path, len(items), limit)]
    errors = [error for index, item in enumerate(items) for error in check(item, f"{path}[{index}]")]
    if key is not None:
        seen: set[Any] = set()
        for index, item in enumerate(items):
            found = key(item)
            if found in seen:
                shown = dict(zip(_DEVICE_KEYS, found, strict=True)) if isinstance(found, tuple) else found
                errors.append(duplicate(f"{path}[{index}]", shown))
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
    if not isinstance(value, dict):
        return [invalid_value(path, "<value omitted>", "must be a valid JSON object")]
    return []


def conditions(items: Sequence[dict[str, Any]], path: str) -> Errors:
    """A list of metav1.Condition."""

    def check(item: dict[str, Any], where: str) -> Errors:
        errors = label_name(item.get("type", ""), f"{where}.type")
        if item.get("status", "") not in {"True", "False", "Unknown"}:
            errors.append(unsupported(f"{where}.status", item.get("status", ""), ("False", "True", "Unknown")))
        if item.get("observedGeneration", 0) < 0:
            errors.append(
                invalid_value(f"{where}.observedGeneration", item["observedGeneration"],
                              "must be greater than or equal to zero")
            )  # fmt: skip
        if not item.get("lastTransitionTime"):
            errors.append(required(f"{where}.lastTransitionTime"))
        reason = item.get("reason", "")
        if not reason:
            errors.append(required(f"{where}.reason"))
        elif len(reason) > 1024:
            errors.append(too_long(f"{where}.reason", 1024))
        elif not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", reason):
            wanted = "a condition reason must start with alphabetic character, optionally followed by a string of "
            wanted += "alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' "
            wanted += "(e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', "
            wanted += "regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            errors.append(invalid_value(f"{where}.reason", reason, wanted))
        if len(item.get("message", "").encode()) > 32768:
            errors.append(too_long(f"{where}.message", 32768))
        return errors

    return each(items, path, check) + [
        duplicate(f"{path}[{index}].type", item.get("type", ""))
        for index, item in enumerate(items)
        if item.get("type") in [other.get("type") for other in items[:index]]
    ]


_NODE_OPERATORS = ("DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn")


def node_selector(selector: dict[str, Any], path: str) -> Errors:
    """A core v1 NodeSelector."""
    terms = selector.get("nodeSelectorTerms") or []
    where = f"{path}.nodeSelectorTerms"
    if not terms:
        return [required(where, "must have at least one node selector term")]
    errors: Errors = []
    for index, term in enumerate(terms):
        for number, item in enumerate(term.get("matchExpressions") or []):
            at = f"{where}[{index}].matchExpressions[{number}]"
            operator, values = item.get("operator", ""), item.get("values") or []
            if operator in {"In", "NotIn"} and not values:
                errors.append(required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
            elif operator in {"Exists", "DoesNotExist"} and values:
                detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                errors.append(forbidden_field(f"{at}.values", detail))
            elif operator in {"Gt", "Lt"} and len(values) != 1:
                errors.append(
                    required(f"{at}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
                )
            elif operator not in _NODE_OPERATORS:
                errors.append(invalid_value(f"{at}.operator", operator, "not a valid selector operator"))
            errors += label_name(item.get("key", ""), f"{at}.key")
        for number, item in enumerate(term.get("matchFields") or []):
            at = f"{where}[{index}].matchFields[{number}]"
            if item.get("operator") not in {"In", "NotIn"}:
                errors.append(
                    invalid_value(f"{at}.operator", item.get("operator", ""), "not a valid selector operator")
                )
            elif len(item.get("values") or []) != 1:
                errors.append(
                    required(
                        f"{at}.values",
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    )
                )
            if item.get("key") != "metadata.name":
                errors.append(invalid_value(f"{at}.key", item.get("key", ""), "not a valid field selector key"))
    return errors
