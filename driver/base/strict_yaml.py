"""YAML files that people write: validated strictly, and every error names file, line, column, and what was expected."""

from __future__ import annotations

import reprlib
import typing
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

M = TypeVar("M", bound=BaseModel)
Location = tuple[int | str, ...]
"""Where in a document: keys and list positions, from the outside in."""

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "string_type": "a string (put it in quotes)",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class StrictYamlError(ValueError):
    """A file that cannot be used: one line, ``file:line:column: where: what is wrong``."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # YAML forbids a key twice, PyYAML takes the last one: an edit in the wrong place would go unnoticed.
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(getattr(key, "value", ""))
        return super().construct_mapping(node, deep)


def load(
    model: type[M],
    text: str | bytes,
    name: str,
    *,
    check: Callable[[M], Iterable[tuple[Location, str]]] = lambda _: (),
) -> M:
    """Read text as a document of the given shape.

    Args:
        model: the shape; give it ``strict=True`` and ``extra="forbid"``.
        text: the file's content.
        name: how errors call the file.
        check: rules across fields: yields where and what is wrong.

    Raises:
        StrictYamlError: the first thing that is wrong, and how many more there are.
    """
    try:
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        context = f" ({error.context})" if error.context else ""
        raise StrictYamlError(f"{name}{where}: {error.problem}{context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, control characters, an impossible date
        raise StrictYamlError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    if node is None or value is None:
        raise StrictYamlError(f"{name}:1:1: the file is empty; expected: {', '.join(_names(model))}")
    try:
        result = model.model_validate(value)
    except ValidationError as error:
        problems = [(e["loc"], _explain(model, node, e)) for e in error.errors(include_url=False)]
    else:
        problems = list(check(result))
        if not problems:
            return result
    location, problem = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    mark = _find(node, location)[1]
    path = _path(location)
    raise StrictYamlError(f"{name}:{mark.line + 1}:{mark.column + 1}: {path}{': ' if path else ''}{problem}{more}")


def _explain(model: type[BaseModel], root: yaml.Node, error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key; known are {', '.join(_fields(model, error['loc'][:-1]))}"
    place = _find(root, error["loc"])[0]
    # As written: 12:30 without quotes is the number 750 to YAML, and nobody would find that in the file.
    found = place.value if isinstance(place, yaml.ScalarNode) and place.style is None else error["input"]
    found = found if isinstance(found, str) and not isinstance(error["input"], str) else _short.repr(found)
    if kind in _EXPECTED:
        return f"{found} is not {_EXPECTED[kind]}"
    if kind == "string_pattern_mismatch":
        return f"{found} does not match {error['ctx']['pattern']}"
    if kind == "value_error":
        return f"{found}: {error['ctx']['error']}"
    return f"{found}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields(model: type[BaseModel], location: Location) -> tuple[str, ...]:
    """Names of the fields that may stand at a location."""
    current: Any = model
    for step in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and step in _names(current):
            current = _names(current)[str(step)]
        else:  # a list, a mapping or an optional value: its last argument that says anything
            arguments = [a for a in typing.get_args(current) if a is not type(None)]
            current = arguments[-1] if arguments else None
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        current = next((a for a in typing.get_args(current) if hasattr(a, "model_fields")), None)
    return tuple(_names(current)) if current is not None else ()


def _names(model: type[BaseModel]) -> dict[str, Any]:
    """A model's fields as they are called in a file, with their types."""
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _find(root: yaml.Node, location: Location) -> tuple[yaml.Node | None, yaml.Mark]:
    """The node at a location, None if the document has none there; and where the deepest part of it begins."""
    node, mark = root, root.start_mark
    for step in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if getattr(k, "value", None) == str(step)), None)
            if pair is None:
                return None, mark
            node = pair[1]
            mark = pair[0].start_mark if isinstance(node, yaml.CollectionNode) else node.start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            mark = node.start_mark
        else:
            return None, mark
    return node, mark


def _path(location: Location) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return text.removeprefix(".")
