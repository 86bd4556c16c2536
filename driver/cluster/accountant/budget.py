"""A ResourceQuota as the accountant sees it: what is granted, for how long, and what its status says at the moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.base.quantity import is_quantity, parse_quantity
from driver.cluster.accountant.annotation import decimal
from driver.cluster.accountant.ledger import PER_HOUR, WHOLE, Account, total
from driver.cluster.accountant.period import Forever, Period, PeriodError, parse_period, read_time

if TYPE_CHECKING:
    from driver.cluster.objects import Key

HOURS = "requests.resource.k8s.io/gpu-hours"
GPUS = "requests.resource.k8s.io/gpu"


def state_annotation(driver: str) -> str:
    """Where the account is."""
    return f"{driver}/gpu-hours"


def period_annotation(driver: str) -> str:
    """Where an administrator writes a period."""
    return f"{driver}/gpu-hours-period"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What of a ResourceQuota concerns us."""

    key: Key
    uid: str
    version: str
    created: int
    hours: int | None
    """What is granted, as an amount; None without a limit."""
    gpus: int | None
    """In millionths of a GPU."""
    period: Period
    problem: str
    """What is wrong with the period, which is for ever then: an hour too many is refused rather than one given away."""
    text: str | None
    """The account's annotation."""
    used: tuple[str | None, str | None]
    """What the status says of hours and GPUs."""


def read_quota(obj: dict[str, Any], *, driver: str) -> Quota | None:
    """The quota; None if it is no budget."""
    metadata, spec = obj["metadata"], _dict(obj.get("spec"))
    hard, status = _dict(spec.get("hard")), _dict(obj.get("status"))
    if not {HOURS, GPUS} & hard.keys() or metadata.get("deletionTimestamp"):
        return None
    annotations, used = _dict(metadata.get("annotations")), _dict(status.get("used"))
    period: Period = Forever()
    problem, text = "", annotations.get(state_annotation(driver))
    try:
        period = parse_period(str(annotations.get(period_annotation(driver), "")))
    except PeriodError as error:
        problem = str(error)
    return Quota(
        key=(metadata.get("namespace", ""), metadata["name"]),
        uid=str(metadata.get("uid", "")),
        version=metadata["resourceVersion"],
        created=read_time(metadata.get("creationTimestamp")) or 0,
        hours=_amount(hard.get(HOURS), PER_HOUR),
        gpus=_amount(hard.get(GPUS), WHOLE),
        period=period,
        problem=problem,
        text=text if isinstance(text, str) else None,
        used=(_text(used.get(HOURS)), _text(used.get(GPUS))),
    )


def shown(account: Account, quota: Quota) -> dict[str, str]:
    """What the status is to say: of each name that the quota limits."""
    both = {HOURS: decimal(total(account).used, PER_HOUR), GPUS: decimal(account.held, WHOLE)}
    return {name: both[name] for name, limit in ((HOURS, quota.hours), (GPUS, quota.gpus)) if limit is not None}


def is_shown(quota: Quota, said: dict[str, str]) -> bool:
    """Whether the status says so, however it spells it."""
    return all(
        found is not None and is_quantity(found) and parse_quantity(found) == parse_quantity(said[name])
        for name, found in zip((HOURS, GPUS), quota.used, strict=True)
        if name in said
    )


def percent(account: Account, quota: Quota) -> int:
    """How much of the hours is used."""
    if quota.hours is None:
        return 0
    used = total(account).used
    return min(1000, used * 100 // quota.hours) if quota.hours else 100


def _amount(text: Any, unit: int) -> int | None:
    if not isinstance(text, str) or not is_quantity(text):
        return None
    return int(parse_quantity(text) * unit)


def _dict(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None
