"""Accounts onto their quotas: one request has the account, what people see, and the version that it goes on from.

Whoever read an older version is refused: two accountants that both believe to be the one never both add.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.base.repeat_filter import RepeatFilter
from driver.cluster.accountant.annotation import decimal, write_account
from driver.cluster.accountant.books import Books, Budget, with_level
from driver.cluster.accountant.budget import is_shown, percent, shown, state_annotation
from driver.cluster.accountant.ledger import PER_HOUR, total
from driver.kube import MERGE_PATCH, ApiError, check_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.cluster.accountant.ledger import Account
    from driver.cluster.accountant.tell import Teller
    from driver.cluster.objects import Key
    from driver.kube import Api

logger = logging.getLogger(__name__)

AT_ONCE = 8
LEVELS = (80, 95, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between writes of one quota."""

    change: float = 60
    idle: float = 600
    """Where nothing is used: so that it is known that somebody looked."""
    repair: float = 2
    """Where somebody else, such as the quota controller, has set the figures back."""
    retry: float = 5
    tick: float = 1


@dataclass(slots=True)
class _Written:
    """What was written of a budget, and when."""

    at: float
    tried: float
    said: dict[str, str]


class Writer:
    """Writes what is due."""

    def __init__(
        self,
        api: Api,
        books: Books,
        *,
        driver: str,
        now: Callable[[], int],
        took: Callable[[dict[str, Any]], None],
        in_step: Callable[[], bool],
        heard: Callable[[], int],
        teller: Teller,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``took`` gets the answers; ``in_step`` says whether claims are watched, ``heard`` when that last told."""
        self._api = api
        self._books = books
        self._annotation = state_annotation(driver)
        self._now = now
        self._took = took
        self._in_step = in_step
        self._heard = heard
        self._teller = teller
        self._pace = pace or Pace()
        self._clock = clock
        self._sleep = sleep
        self._repeats = RepeatFilter()
        self._written: dict[Key, _Written] = {}
        self.writes = {"ok": 0, "conflict": 0, "error": 0}

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self.write_due()
            await self._sleep(self._pace.tick)

    async def write_due(self, *, everything: bool = False) -> None:
        """One round; ``everything`` for the last one, so that who comes after has nothing to guess."""
        self._written = {key: value for key, value in self._written.items() if key in self._books.budgets}
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(budget: Budget) -> None:
            async with gate:
                await self._write(budget)

        for budget in self._books.budgets.values():
            self._tell_damage(budget)
        if self._in_step():
            due = [budget for budget in self._books.budgets.values() if everything or self._is_due(budget)]
            await asyncio.gather(*map(one, due))

    def _is_due(self, budget: Budget) -> bool:
        account = budget.account
        if account is None:
            return False
        known, now, pace = self._written.get(budget.quota.key), self._clock(), self._pace
        if known is None:
            return True
        if now - known.tried < min(pace.repair, pace.retry):
            return False
        if budget.quota.text is None or not is_shown(budget.quota, known.said):
            return now - known.tried >= pace.repair
        if now - known.at < pace.change:
            return False
        return bool(account.held) or known.said != shown(account, budget.quota) or now - known.at >= pace.idle

    async def _write(self, budget: Budget) -> None:
        now, quota = self._clock(), budget.quota
        account = self._books.settle(budget, self._now())
        if account is None:
            return
        used = percent(account, quota)
        level = max((level for level in LEVELS if used >= level), default=0)
        news = level > account.told
        spent = used >= 100 and quota.hours is not None
        account = budget.account = with_level(account, level, spent=spent, heard=self._heard())
        said = shown(account, quota)
        budget.pending = write_account(account, hard=quota.hours)
        body = {
            "metadata": {"resourceVersion": quota.version, "annotations": {self._annotation: budget.pending}},
            "status": {"used": said},
        }
        known = self._written.setdefault(quota.key, _Written(-self._pace.idle, now, {}))
        known.tried = now
        path = f"/api/v1/namespaces/{quota.key[0]}/resourcequotas/{quota.key[1]}/status"
        try:
            answer = check_object(
                await self._api.request("PATCH", path, body=body, content_type=MERGE_PATCH), f"PATCH {path}"
            )
        except ApiError as error:
            self._failed(path, error)
            return
        self.writes["ok"] += 1
        self._repeats.over(path)
        known.at, known.said = now, said
        self._took(answer)
        if news:
            self._tell(budget, account, level)
        self._tell_problems(budget)

    def _failed(self, path: str, error: ApiError) -> None:
        if error.status == 409:  # the watch brings what is there now, and the next round goes on from that
            self.writes["conflict"] += 1
        elif error.status != 404:
            self.writes["error"] += 1
            if self._repeats.is_news(path, str(error)):
                logger.warning("the account was not written, trying again: %s", error)

    def _tell_problems(self, budget: Budget) -> None:
        quota = budget.quota
        if not quota.problem:
            self._repeats.over(f"{quota.uid} period")
        elif self._repeats.is_news(f"{quota.uid} period", quota.problem):
            self._teller.tell(quota, "Warning", "GpuHoursPeriod", f"{quota.problem}; until then the budget is for ever")

    def _tell_damage(self, budget: Budget) -> None:
        quota = budget.quota
        if not budget.damaged:
            self._repeats.over(f"{quota.uid} account")
        elif self._repeats.is_news(f"{quota.uid} account", budget.damaged):
            text = (
                f"the annotation {self._annotation} cannot be read, and nothing is counted: write back what was"
                f" there, or remove it to begin anew ({budget.damaged})"
            )
            self._teller.tell(quota, "Warning", "GpuHoursUnreadable", text)

    def _tell(self, budget: Budget, account: Account, level: int) -> None:
        quota = budget.quota
        used, hard = decimal(total(account).used, PER_HOUR), decimal(quota.hours or 0, PER_HOUR)
        text = f"{level} % of the GPU hours are used: {used} of {hard}"
        if level < LEVELS[-1]:
            self._teller.tell(quota, "Normal" if level == LEVELS[0] else "Warning", "GpuHoursLow", text)
            return
        self._teller.tell(quota, "Warning", "GpuHoursSpent", f"{text}; claims get no more GPUs")
