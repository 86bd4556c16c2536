"""Settings as options of commands: one flag and one environment variable for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click
from pydantic import ValidationError

from driver.node import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic.fields import FieldInfo

_METAVARS = {
    "kubeconfig": "FILE",
    "config": "FILE",
    "shares": "disabled|memory|N|unlimited",
    "shares_memory_reserve": "QUANTITY",
    "health_port": "PORT",
    "http_port": "PORT",
} | {name: "DIR" for name in Settings.model_fields if name.endswith(("_dir", "_root"))}
ALL: Collection[str] = tuple(Settings.model_fields)
NO_NODE = "no-node"
"""For commands that need no node's name and were given none: a name that no node has."""
OF_A_NODE = (
    "node_name",
    "driver_name",
    "kubeconfig",
    "kubelet_plugins_dir",
    "kubelet_registry_dir",
    "cdi_root",
    "devices",
    "driver_root",
    "container_driver_root",
    "sysfs_root",
    "proc_root",
    "dev_root",
)
"""Settings of whoever looks at a node from its own file system."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting; some have the name that NVIDIA's driver gave them."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["variable"]) if isinstance(extra, dict) else name.upper()


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(message)
            continue
        name = str(problem["loc"][0])
        where = f"{_flag(name)} ({variable(name)})"
        if problem["type"] == "missing":
            lines.append(f"{where} is required: {Settings.model_fields[name].description}")
        else:
            lines.append(f"{where} was given {problem['input']!r}: {message[0].lower()}{message[1:]}")
    return "; ".join(lines)


def settings_options(names: Collection[str] = ALL) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each of these settings, with its environment variable and default."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, info in reversed(Settings.model_fields.items()):
            if name in names:
                command = _option(name, info)(command)
        return command

    return decorate


def _option(name: str, info: FieldInfo) -> Callable[[Callable[..., None]], Callable[..., None]]:
    choices = [str(choice) for choice in get_args(info.annotation) if isinstance(choice, str)]
    metavar = "|".join(choices) or _METAVARS.get(name, "TEXT")
    default = "" if info.is_required() or info.default in (None, "", False) else str(info.default)
    return click.option(
        _flag(name),
        name,
        envvar=variable(name),
        show_envvar=True,
        is_flag=info.annotation is bool,
        metavar=None if info.annotation is bool else metavar,
        help=f"{info.description}{f'  [default: {default}]' if default else ''}",
    )


def check_devices(devices: str | None) -> None:
    """Raises UsageError for fake devices that no profile describes: one line, which names the profiles that exist.

    Before other settings are asked for: what is lacking beside it is not needed to see that.
    """
    kind, _, source = (devices or "").partition(":")
    if kind != "fake":
        return
    from driver.hardware import ProfileError, load_profile

    try:
        load_profile(source)
    except ProfileError as error:
        raise click.UsageError(f"{_flag('devices')} ({variable('devices')}) was given {devices!r}: {error}") from None


def read_settings(given: dict[str, Any]) -> Settings:
    """Validate what flags and environment gave. Raises UsageError: one line, what was given and what is accepted."""
    # An empty variable is what a chart writes for "not set".
    values = {name: value for name, value in given.items() if value not in (None, "")}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise click.UsageError(_explain(error)) from None
