"""CEL selectors of device classes and requests, evaluated by Google's C++ runtime.

The environment is that of the real scheduler as far as selectors use it: ``device``, ``quantity()``, ``semver()``,
``cel.bind``, the string extensions and optionals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import semver
from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from driver.sim.scheduler import quantities

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = frozenset({"driver", "attributes", "capacity", "allowMultipleAllocations"})
MAX_EXPRESSION_BYTES = 10 * 1024

# Alternatives in this order, so that nothing inside a string literal is ever taken for code.
_STRING = r"""[rR]?(?:\"(?:[^"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"""
_TOKEN = re.compile(
    rf"(?P<string>{_STRING})"
    rf"|(?<![\w.])device\s*\.\s*(?P<map>attributes|capacity)\s*\[\s*(?P<domain>{_STRING})\s*\]"
    rf"|(?<![\w.])device\s*\.\s*(?P<field>[A-Za-z_]\w*)"
)
_MISSING_KEY = re.compile(r'NOT_FOUND: Key not found in map : "?([^"]*)"?')


class CelError(Exception):
    """The expression does not compile, or failed on a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a selector sees of a device."""

    driver: str
    spec: Mapping[str, Any]
    """An entry of ``ResourceSlice.spec.devices``."""


class Selector:
    """One compiled expression."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._program = _compile(expression)

    def matches(self, device: Device) -> bool:
        """Whether the device is selected. Raises CelError where the real scheduler reports a runtime error."""
        result = self._program.eval(data={"device": device_value(device)})
        if result.type() == cel.Type.ERROR:
            raise CelError(_runtime_message(str(result.value())))
        value = result.value()
        if not isinstance(value, bool):
            raise CelError(f"CEL result of type {result.type().name()} could not be converted to bool")
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


def device_value(device: Device) -> dict[str, Any]:
    """The ``device`` variable: names without a domain are put in the driver's."""
    attributes: dict[str, dict[str, Any]] = {}
    for name, attribute in (device.spec.get("attributes") or {}).items():
        domain, identifier = _split(name, device.driver)
        attributes.setdefault(domain, {})[identifier] = _attribute(name, attribute)
    capacity: dict[str, dict[str, Any]] = {}
    for name, entry in (device.spec.get("capacity") or {}).items():
        domain, identifier = _split(name, device.driver)
        capacity.setdefault(domain, {})[identifier] = _quantity(str(entry["value"]))
    return {
        "driver": device.driver,
        "allowMultipleAllocations": bool(device.spec.get("allowMultipleAllocations")),
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
        return _semver(str(attribute["version"]))
    # List attributes too: their feature gate is off up to 1.37, and the real scheduler fails on them in the same way.
    raise CelError(f"attribute {name}: unsupported attribute value")


def _message_classes() -> tuple[type[Any], type[Any]]:
    """Types that CEL can tell apart and compare; their text is normal, so that equal text means equal value."""
    file = descriptor_pb2.FileDescriptorProto(name="sim/cel.proto", package="kubernetes", syntax="proto3")
    for name in ("Quantity", "Semver"):
        file.message_type.add(name=name).field.add(name="text", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    quantity, version = (pool.FindMessageTypeByName(f"kubernetes.{name}") for name in ("Quantity", "Semver"))
    return message_factory.GetMessageClass(quantity), message_factory.GetMessageClass(version)


QuantityMessage, SemverMessage = _message_classes()


def _quantity(text: str) -> Any:
    return _quantity_of(quantities.parse(text))


def _quantity_of(value: Decimal) -> Any:
    return QuantityMessage(text=format(value.normalize(), "f"))


def _semver(text: str) -> Any:
    return SemverMessage(text=str(semver.Version.parse(text)))


def _amount(value: Any) -> Decimal:
    return Decimal(value) if isinstance(value, int) else Decimal(value.text)


def _compare(left: Any, right: Any) -> int:
    if isinstance(left, QuantityMessage) and isinstance(right, QuantityMessage):
        return int(_amount(left).compare(_amount(right)))
    if isinstance(left, SemverMessage) and isinstance(right, SemverMessage):
        return semver.Version.parse(left.text).compare(right.text)
    raise ValueError("no such overload")


def _as_integer(value: Any) -> int:
    number = _amount(value)
    if number != number.to_integral_value():
        raise ValueError(f"cannot convert value {value.text} to integer")
    return int(number)


def _add(left: Any, right: Any) -> Any:
    return _quantity_of(_amount(left) + _amount(right))


def _sub(left: Any, right: Any) -> Any:
    return _quantity_of(_amount(left) - _amount(right))


def _is_quantity(text: str) -> bool:
    try:
        quantities.parse(text)
    except ValueError:
        return False
    return True


def _version_part(index: int) -> Any:
    return lambda value: semver.Version.parse(value.text).to_tuple()[index]


@lru_cache(maxsize=1)
def _environment() -> cel.Env:
    kind, text, whole, flag = cel.Type, cel.Type.STRING, cel.Type.INT, cel.Type.BOOL
    quantity, version = kind("kubernetes.Quantity"), kind("kubernetes.Semver")

    def function(name: str, *overloads: tuple[cel.Type, list[cel.Type], Any], member: bool = True) -> cel.FunctionDecl:
        return cel.FunctionDecl(
            name,
            [
                cel.Overload(f"{name}_{index}", return_type=returns, parameters=parameters, is_member=member, impl=impl)
                for index, (returns, parameters, impl) in enumerate(overloads)
            ],
        )

    def compared(returns: cel.Type, impl: Any) -> tuple[tuple[cel.Type, list[cel.Type], Any], ...]:
        # The runtime sees only "two messages": one implementation serves both declarations.
        return (returns, [quantity, quantity], impl), (returns, [version, version], None)

    return cel.NewEnv(
        descriptor_pool.Default(),
        variables={"device": kind.Map(text, kind.DYN)},
        extensions=[ext_bindings.ExtBindings(), ext_strings.ExtStrings(), ext_optional.ExtOptional()],
        functions=[
            function("quantity", (quantity, [text], _quantity), member=False),
            function("isQuantity", (flag, [text], _is_quantity), member=False),
            function("semver", (version, [text], _semver), member=False),
            function("isSemver", (flag, [text], semver.Version.is_valid), member=False),
            function("compareTo", *compared(whole, _compare)),
            function("isGreaterThan", *compared(flag, lambda a, b: _compare(a, b) > 0)),
            function("isLessThan", *compared(flag, lambda a, b: _compare(a, b) < 0)),
            function("sign", (whole, [quantity], lambda a: int(_amount(a).compare(Decimal(0))))),
            function("isInteger", (flag, [quantity], lambda a: _amount(a) == _amount(a).to_integral_value())),
            function("asInteger", (whole, [quantity], _as_integer)),
            function("asApproximateFloat", (kind.DOUBLE, [quantity], lambda a: float(_amount(a)))),
            function("add", (quantity, [quantity, quantity], _add), (quantity, [quantity, whole], _add)),
            function("sub", (quantity, [quantity, quantity], _sub), (quantity, [quantity, whole], _sub)),
            function("major", (whole, [version], _version_part(0))),
            function("minor", (whole, [version], _version_part(1))),
            function("patch", (whole, [version], _version_part(2))),
        ],
    )


def _compile(expression: str) -> cel.Expression:
    if len(expression.encode()) > MAX_EXPRESSION_BYTES:
        raise CelError(f"compilation failed: expression too long, at most {MAX_EXPRESSION_BYTES} bytes are allowed")
    environment = _environment()
    try:
        original = environment.compile(expression)  # so that errors show the text that the user wrote
        program = environment.compile(_TOKEN.sub(_unknown_domain_is_empty, expression))
    except RuntimeError as error:
        raise CelError(f"compilation failed: {error}") from error
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


def _runtime_message(text: str) -> str:
    if missing := _MISSING_KEY.search(text):
        return f"no such key: {missing[1]}"
    if "No matching overloads" in text:
        return f"no such overload: {text.rpartition(': ')[2]}"
    return text
