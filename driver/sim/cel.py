"""CEL with what Kubernetes adds to it, evaluated by Google's C++ runtime.

Scheduler and API server declare their own variables; ``quantity()``, ``semver()``, ``cel.bind``, the string extensions
and optionals are the same for both.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import semver
from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from driver.sim import quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

_MISSING_KEY = re.compile(r'NOT_FOUND: Key not found in map : "?([^"]*)"?')


class CelError(Exception):
    """The expression does not compile, or failed on its data."""


def environment(variables: Mapping[str, cel.Type]) -> cel.Env:
    """An environment with these variables; a name may have dots (``variables.name``)."""
    return cel.NewEnv(
        descriptor_pool.Default(),
        variables=dict(variables),
        extensions=[ext_bindings.ExtBindings(), ext_strings.ExtStrings(), ext_optional.ExtOptional()],
        functions=list(_functions()),
    )


def compiled(scope: cel.Env, expression: str) -> cel.Expression:
    """The program. Raises CelError with the compiler's words, which are those of Kubernetes' compiler."""
    try:
        return scope.compile(expression)
    except RuntimeError as error:
        text = str(error).removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]")
        raise CelError(f"compilation failed: {text}") from error


def evaluated(program: cel.Expression, data: Mapping[str, Any] | cel.Activation) -> Any:
    """The value, as plain Python. Raises CelError for a runtime error.

    An activation is data that several programs of its environment look at: it is converted once.
    """
    result = program.eval(data) if isinstance(data, cel.Activation) else program.eval(data=dict(data))
    if result.type() == cel.Type.ERROR:
        raise CelError(_runtime_message(str(result.value())))
    try:
        return result.plain_value()
    except TypeError as error:
        raise CelError(f"a value of type {program.return_type().name()} is not supported here") from error


def _runtime_message(text: str) -> str:
    if missing := _MISSING_KEY.search(text):
        return f"no such key: {missing[1]}"
    if "No matching overloads" in text:
        return f"no such overload: {text.rpartition(': ')[2]}"
    return text


# -- quantities and versions -----------------------------------------------------------------------------------------


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


def quantity_value(text: str) -> Any:
    """A quantity as CEL sees it."""
    return _quantity_of(quantity.parse(text))


def _quantity_of(value: Fraction) -> Any:
    return QuantityMessage(text=str(value))


def semver_value(text: str) -> Any:
    """A semantic version as CEL sees it."""
    return SemverMessage(text=str(semver.Version.parse(text)))


def _amount(value: Any) -> Fraction:
    return Fraction(value if isinstance(value, int) else value.text)


def _compare(left: Any, right: Any) -> int:
    if isinstance(left, QuantityMessage) and isinstance(right, QuantityMessage):
        return _sign(_amount(left) - _amount(right))
    if isinstance(left, SemverMessage) and isinstance(right, SemverMessage):
        return semver.Version.parse(left.text).compare(right.text)
    raise ValueError("no such overload")


def _sign(number: Fraction) -> int:
    return (number > 0) - (number < 0)


def _as_integer(value: Any) -> int:
    number = _amount(value)
    if number.denominator != 1:
        raise ValueError(f"cannot convert value {value.text} to integer")
    return int(number)


def _add(left: Any, right: Any) -> Any:
    return _quantity_of(_amount(left) + _amount(right))


def _sub(left: Any, right: Any) -> Any:
    return _quantity_of(_amount(left) - _amount(right))


def _is_quantity(text: str) -> bool:
    try:
        quantity.parse(text)
    except ValueError:
        return False
    return True


def _version_part(index: int) -> Any:
    return lambda value: semver.Version.parse(value.text).to_tuple()[index]


@lru_cache(maxsize=1)
def _functions() -> tuple[cel.FunctionDecl, ...]:
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

    return (
        function("quantity", (quantity, [text], quantity_value), member=False),
        function("isQuantity", (flag, [text], _is_quantity), member=False),
        function("semver", (version, [text], semver_value), member=False),
        function("isSemver", (flag, [text], semver.Version.is_valid), member=False),
        function("compareTo", *compared(whole, _compare)),
        function("isGreaterThan", *compared(flag, lambda a, b: _compare(a, b) > 0)),
        function("isLessThan", *compared(flag, lambda a, b: _compare(a, b) < 0)),
        function("sign", (whole, [quantity], lambda a: _sign(_amount(a)))),
        function("isInteger", (flag, [quantity], lambda a: _amount(a).denominator == 1)),
        function("asInteger", (whole, [quantity], _as_integer)),
        function("asApproximateFloat", (kind.DOUBLE, [quantity], lambda a: float(_amount(a)))),
        function("add", (quantity, [quantity, quantity], _add), (quantity, [quantity, whole], _add)),
        function("sub", (quantity, [quantity, quantity], _sub), (quantity, [quantity, whole], _sub)),
        function("sum", (whole, [kind.List(whole)], sum)),
        function("major", (whole, [version], _version_part(0))),
        function("minor", (whole, [version], _version_part(1))),
        function("patch", (whole, [version], _version_part(2))),
    )
