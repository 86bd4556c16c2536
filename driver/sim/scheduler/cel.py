"""CEL selectors of device classes and requests, in the environment of the real scheduler: ``device`` and no more."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel

from driver.sim.cel import CelError, compiled, environment, evaluated, quantity_value, semver_value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CelError", "Selector", "compile_error", "selector"]

FIELDS = frozenset({"driver", "attributes", "capacity", "allowMultipleAllocations"})
MAX_EXPRESSION_BYTES = 10 * 1024

# Alternatives in this order, so that nothing inside a string literal is ever taken for code.
_STRING = r"""[rR]?(?:\"(?:[^"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"""
_TOKEN = re.compile(
    rf"(?P<string>{_STRING})"
    rf"|(?<![\w.])device\s*\.\s*(?P<map>attributes|capacity)\s*\[\s*(?P<domain>{_STRING})\s*\]"
    rf"|(?<![\w.])device\s*\.\s*(?P<field>[A-Za-z_]\w*)"
)


class Selector:
    """One compiled expression."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._program = _compile(expression)

    def matches(self, driver: str, device: Mapping[str, Any]) -> bool:
        """Whether a device of ``ResourceSlice.spec.devices`` is selected. Raises CelError."""
        value = evaluated(self._program, {"device": _device(driver, device)})
        if not isinstance(value, bool):
            raise CelError(f"CEL result of type {type(value).__name__} could not be converted to bool")
        return value


@lru_cache(maxsize=1024)
def selector(expression: str) -> Selector:
    """Compile an expression once. Raises CelError with the compiler's words."""
    return Selector(expression)


def compile_error(expression: str) -> str | None:
    """What is wrong with an expression, None if it compiles; for the API server's validation."""
    try:
        selector(expression)
    except CelError as error:
        return str(error)
    return None


def _device(driver: str, device: Mapping[str, Any]) -> dict[str, Any]:
    """The ``device`` variable: names without a domain are put in the driver's."""
    attributes: dict[str, dict[str, Any]] = {}
    for name, attribute in (device.get("attributes") or {}).items():
        domain, identifier = _split(name, driver)
        attributes.setdefault(domain, {})[identifier] = _attribute(name, attribute)
    capacity: dict[str, dict[str, Any]] = {}
    for name, entry in (device.get("capacity") or {}).items():
        domain, identifier = _split(name, driver)
        capacity.setdefault(domain, {})[identifier] = quantity_value(str(entry["value"]))
    return {
        "driver": driver,
        "allowMultipleAllocations": bool(device.get("allowMultipleAllocations")),
        "attributes": attributes,
        "capacity": capacity,
    }


def _split(name: str, driver: str) -> tuple[str, str]:
    domain, slash, identifier = name.partition("/")
    return (domain, identifier) if slash else (driver, name)


def _attribute(name: str, attribute: Mapping[str, Any]) -> Any:
    for key in ("int", "bool", "string"):
        if attribute.get(key) is not None:
            return attribute[key]
    if attribute.get("version") is not None:
        return semver_value(str(attribute["version"]))
    # List attributes too: their feature gate is off up to 1.37, and the real scheduler fails on them in the same way.
    raise CelError(f"attribute {name}: unsupported attribute value")


@lru_cache(maxsize=1)
def _environment() -> cel.Env:
    return environment({"device": cel.Type.Map(cel.Type.STRING, cel.Type.DYN)})


def _compile(expression: str) -> cel.Expression:
    if len(expression.encode()) > MAX_EXPRESSION_BYTES:
        raise CelError(f"compilation failed: expression too long, at most {MAX_EXPRESSION_BYTES} bytes are allowed")
    original = compiled(_environment(), expression)  # so that errors show the text that the user wrote
    program = compiled(_environment(), _TOKEN.sub(_unknown_domain_is_empty, expression))
    returns = original.return_type()
    if returns not in (cel.Type.BOOL, cel.Type.DYN):
        raise CelError(f"compilation failed: must evaluate to bool or the unknown type, not {returns.name()}")
    return program


def _unknown_domain_is_empty(token: re.Match[str]) -> str:
    # The real maps answer an unknown domain with an empty map, but "x" in device.attributes is still false.
    if token["map"]:
        mapping, domain = f"device.{token['map']}", token["domain"]
        return f"({domain} in {mapping} ? {mapping}[{domain}] : {{}})"
    if token["field"] and token["field"] not in FIELDS:
        raise CelError(f"compilation failed: undefined field '{token['field']}'")
    return token[0]
