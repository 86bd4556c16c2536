"""The account as it stands on the quota, in one annotation that nobody but the accountant writes.

Compact JSON, bounded by the spans of a period. ``hours``, ``gpus`` and ``until`` are for the admission policy, which
reads them with a regular expression (its language has no JSON), and for people; the rest is the account.
"""

from __future__ import annotations

import json
from typing import Any

from driver.cluster.accountant.ledger import PER_HOUR, WHOLE, Account, Amount, free_again, total
from driver.cluster.accountant.period import SPANS, iso, parse_period, read_time

VERSION = 1
_LONGEST = 16_384
_MOST = 1 << 80


class AnnotationError(ValueError):
    """The annotation is not one that an accountant wrote."""


def decimal(amount: int, unit: int) -> str:
    """An amount in units, rounded down to three places: ``used`` reaches ``hard`` when all of it has been used."""
    whole, rest = divmod(max(0, amount), unit)
    return f"{whole}.{rest * 1000 // unit:03d}"


def write_account(account: Account, *, hard: int | None = None) -> str:
    """The annotation's text; ``hard`` is what the budget has, as an amount."""
    until = None if hard is None else free_again(account, hard)
    state: dict[str, Any] = {
        "hours": decimal(total(account).used, PER_HOUR),
        "gpus": decimal(account.held, WHOLE),
        "until": "" if until is None else iso(until),
        "v": VERSION,
        "period": str(account.period),
        "at": iso(account.at),
        "heard": iso(account.heard),
        "held": account.held,
        "told": account.told,
        "spent": None if account.spent is None else iso(account.spent),
        "spans": [[span, amount.used, amount.unsure, amount.away] for span, amount in account.spans],
    }
    return json.dumps(state, separators=(",", ":"))


def read_account(text: str) -> Account:
    """The account that was written. Raises AnnotationError."""
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST} characters")
        state = json.loads(text)
        if state["v"] != VERSION:
            raise ValueError(f"its version is {str(state['v'])[:20]!r}")
        at, heard = read_time(state["at"]), read_time(state.get("heard", state["at"]))
        if at is None or heard is None:
            raise ValueError("its time cannot be read")
        spans = [(_number(span), Amount(*map(_number, amounts))) for span, *amounts in state["spans"]]
        if len(spans) > SPANS + 2:
            raise ValueError(f"it has {len(spans)} spans")
        return Account(
            at=at,
            heard=min(heard, at),
            period=parse_period(state["period"]),
            floor=at,
            held=_number(state["held"]),
            spans=tuple(sorted(spans)),
            told=_number(state["told"]),
            spent=read_time(state["spent"]),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise AnnotationError(f"{VERSION=} of an account was expected: {error!s:.200}") from None


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MOST:
        raise ValueError("a whole number was expected")
    return value
