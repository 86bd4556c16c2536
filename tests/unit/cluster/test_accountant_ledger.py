"""The account of a budget against an exact sum, through everything that happens to claims and to accountants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from driver.cluster.accountant.annotation import AnnotationError, read_account, write_account
from driver.cluster.accountant.ledger import (
    PER_HOUR,
    WHOLE,
    Account,
    Held,
    closed,
    free_again,
    opened,
    opening,
    resumed,
    settled,
    total,
)
from driver.cluster.accountant.period import HOUR, Forever, Month, Period, PeriodError, parse_period, read_time

START = read_time("2026-01-30T22:30:00Z") or 0
NAMES = ["a", "b", "c", "d"]
WEIGHTS = st.sampled_from([0, 142_857, 500_000, WHOLE, 4 * WHOLE])
WHILES = st.integers(0, 3 * HOUR) | st.integers(0, 90_000)


@dataclass
class Life:
    """One allocation of a claim, as it really was."""

    weight: int
    start: int
    end: int | None = None
    seen: bool = False


@dataclass
class Watch:
    """What one accountant knows."""

    account: Account
    claims: dict[str, Held] = field(default_factory=dict)


class Budget(RuleBasedStateMachine):
    """Claims live in an exact world; one accountant at a time looks at it, and sometimes does not."""

    period: Period

    @initialize(period=st.sampled_from(["", "month", "month Asia/Kolkata", "5h", "48h"]))
    def begin(self, period: str) -> None:
        self.period = parse_period(period)
        self.now = START
        self.lives: list[Life] = []
        self.current: dict[str, Life] = {}
        self.watch: Watch | None = Watch(opening(START, self.period))
        self.blind: int | None = None
        self.stored = write_account(opening(START, self.period))
        self.exact = True

    @rule(ms=WHILES)
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(name=st.sampled_from(NAMES), weight=WEIGHTS, late=st.integers(0, 60_000))
    def allocate(self, name: str, weight: int, late: int) -> None:
        """Seen ``late``: the allocation says when it was."""
        if name not in self.current:
            self.now += 1
            self.current[name] = life = Life(weight, self.now)
            self.lives.append(life)
            if self._sees():
                self.now += late
                self._open(name)

    @rule(name=st.sampled_from(NAMES))
    def end(self, name: str) -> None:
        if life := self.current.pop(name, None):
            life.end = self.now
            if self._sees() and self.watch:
                held = self.watch.claims.pop(name)
                self.watch.account = closed(self.watch.account, held.weight, self.now)

    @rule(name=st.sampled_from(NAMES), weight=WEIGHTS)
    def reallocate(self, name: str, weight: int) -> None:
        """Under the same UID."""
        if name in self.current:
            self.end(name)
            self.allocate(name, weight, 0)

    @rule()
    def lose_the_watch(self) -> None:
        if self._sees():
            self.blind = self.now

    @rule(weight=WEIGHTS, ms=WHILES, restart=st.booleans())
    def devices_change_hands_while_the_watch_stalls(self, weight: int, ms: int, *, restart: bool) -> None:
        self.lose_the_watch()
        self.time_passes(ms)
        self.reallocate(next(iter(self.current), ""), weight)
        self.time_passes(ms)
        self.write()
        if restart:
            self.start_or_take_over()

    @rule()
    def list_again(self) -> None:
        if self.watch is None or self.blind is None:
            return
        for name, held in list(self.watch.claims.items()):
            life = self.current.get(name)
            if life is None or life.start != held.since:
                del self.watch.claims[name]
                self.watch.account = closed(self.watch.account, held.weight, self.now, seen=self.blind)
        for name in self.current.keys() - self.watch.claims.keys():
            self._open(name)
        self.blind = None

    @rule()
    def write(self) -> None:
        """Also while the watch has stalled, and nobody has noticed yet."""
        if self.watch:
            heard = self.now if self.blind is None else self.blind
            self.watch.account = replace(settled(self.watch.account, self.now), heard=heard)
            self.stored = write_account(self.watch.account)

    @rule()
    def crash(self) -> None:
        self.watch, self.blind = None, None

    @rule()
    def start_or_take_over(self) -> None:
        """From what was written last, whatever the one before knew."""
        left = read_account(self.stored)
        for life in self.lives:
            # Who went unseen, or was seen by one that never wrote it: nobody can know of it any more.
            if life.start > left.heard and life.end is not None:
                life.seen = False
        claims = {name: Held(life.weight, life.start) for name, life in self.current.items()}
        for life in self.current.values():
            life.seen = True
        self.watch, self.blind = Watch(resumed(left, claims.values(), self.now, created=START), claims), None
        self.stored = write_account(self.watch.account)

    @rule(ms=st.integers(1, 10_000))
    def clock_goes_back(self, ms: int) -> None:
        """Another API server answers."""
        if self._sees() and self.watch:
            before = self.watch.account
            assert settled(before, before.at - ms) == before

    @invariant()
    def as_exact_as_it_says(self) -> None:
        if not self._sees() or self.watch is None:
            return
        account = settled(self.watch.account, self.now)
        amount = total(account)
        true = sum(self._counts(life) for life in self.lives if life.seen)
        rounding = sum(self.period.part(span, self.now)[1] > 1 for span, _ in account.spans) * 2
        slack = self._evenly(account)
        assert abs(amount.used - true) <= amount.unsure + rounding + slack
        assert account.held == sum(life.weight for life in self.current.values())

    @invariant()
    def bounded(self) -> None:
        assert len(self.stored) < 4096
        assert write_account(read_account(self.stored)) == self.stored

    def _sees(self) -> bool:
        return self.watch is not None and self.blind is None

    def _open(self, name: str) -> None:
        assert self.watch
        life = self.current[name]
        life.seen = True
        self.watch.claims[name] = held = Held(life.weight, life.start)
        self.watch.account = opened(self.watch.account, held, self.now)

    def _counts(self, life: Life) -> int:
        """What of it is in the period, exactly."""
        span = self.period.span(self.now)
        since = START
        if isinstance(self.period, Forever):
            pass
        elif isinstance(self.period, Month):
            since = max(since, self.period.start(span) or 0)
        else:
            since = max(since, self.now - self.period.hours * HOUR)  # type: ignore[attr-defined]
        start, end = max(life.start, since), life.end if life.end is not None else self.now
        return life.weight * max(0, end - start)

    def _evenly(self, account: Account) -> int:
        """The oldest span of a rolling period is taken by its part: wrong by all of what was used in it at the most."""
        return (
            max(
                (
                    (self.period.start(span + 1) or 0) - (self.period.start(span) or 0)
                    for span, _ in account.spans
                    if self.period.part(span, self.now)[1] > 1
                ),
                default=0,
            )
            * 16
            * WHOLE
        )


def test_no_hour_is_counted_twice_and_none_is_lost_without_being_said() -> None:
    run_state_machine_as_test(Budget, settings=settings(max_examples=80, stateful_step_count=30, deadline=None))


def left_behind(account: Account, now: int, *, heard: int | None = None) -> Account:
    """What is found of an account that was written a while ago."""
    return read_account(write_account(replace(settled(account, now), heard=now if heard is None else heard)))


def test_a_claim_that_took_over_while_the_watch_stalled_is_counted_and_the_other_is_unsure() -> None:
    account = opened(opening(START, Forever()), Held(WHOLE, START), START)
    left = left_behind(account, START + HOUR, heard=START + HOUR // 2)

    resume = resumed(left, [Held(WHOLE, START + 3 * HOUR // 4)], START + HOUR, created=START)

    assert total(resume).used == PER_HOUR  # half an hour that is known, a quarter of the other, a quarter of this
    assert total(resume).unsure == PER_HOUR // 4
    assert resume.held == WHOLE


def test_a_claim_that_came_while_the_watch_stalled_is_counted_from_its_allocation() -> None:
    left = left_behind(opening(START, Forever()), START + HOUR, heard=START + HOUR // 2)

    resume = resumed(left, [Held(WHOLE, START + HOUR // 2 + 1)], START + HOUR, created=START)

    assert total(resume).used == WHOLE * (HOUR // 2 - 1)


def test_a_restart_with_the_claim_still_there_loses_nothing() -> None:
    account = opened(opening(START, Forever()), Held(WHOLE, START), START)
    left = left_behind(account, START + 60_000)
    resume = resumed(left, [Held(WHOLE, START)], START + HOUR, created=START)
    assert total(resume).used == PER_HOUR
    assert total(resume).unsure == 0
    assert total(resume).away == HOUR - 60_000


def test_a_claim_that_ended_while_nobody_looked_ended_in_the_middle_and_this_is_said() -> None:
    left = read_account(write_account(opened(opening(START, Forever()), Held(WHOLE, START), START)))
    resume = resumed(left, [], START + 2 * HOUR, created=START)
    assert total(resume).used == PER_HOUR
    assert total(resume).unsure == PER_HOUR


def test_a_claim_that_the_one_before_had_not_heard_of_yet_is_counted_from_its_allocation() -> None:
    account = opened(opening(START, Forever()), Held(WHOLE, START), START + 1000)
    left = left_behind(account, START + HOUR)
    claims = [Held(WHOLE, START), Held(WHOLE // 2, START + HOUR - 2000)]

    resume = resumed(left, claims, START + HOUR, created=START)

    assert total(resume).used == PER_HOUR + WHOLE // 2 * 2000
    assert resume.held == WHOLE + WHOLE // 2


def test_nothing_is_counted_from_before_the_budget_was_there() -> None:
    resume = resumed(opening(START, Forever()), [Held(WHOLE, START - HOUR)], START + 1000, created=START)

    assert total(resume).used == WHOLE * 1000


def test_a_rolling_budget_is_free_again_when_enough_has_left_the_window() -> None:
    """Four hours used in four hours, of the last ten."""
    used = closed(opened(opening(START, parse_period("10h")), Held(WHOLE, START), START), WHOLE, START + 4 * HOUR)

    free = free_again(used, 3 * PER_HOUR)

    assert free is not None
    assert START + 11 * HOUR < free <= START + 11 * HOUR + 2 * HOUR // 6  # to a span of ten minutes


def test_a_rolling_budget_that_is_held_is_free_when_what_is_held_leaves_room_and_else_never() -> None:
    account = opened(opening(START, parse_period("10h")), Held(WHOLE, START), START)
    busy = opened(settled(account, START + 4 * HOUR), Held(WHOLE, START + 4 * HOUR), START + 4 * HOUR)
    one = closed(settled(busy, START + 10 * HOUR), WHOLE, START + 10 * HOUR)

    assert total(one).used == 16 * PER_HOUR
    assert free_again(one, 10 * PER_HOUR) is None
    free = free_again(one, 12 * PER_HOUR)
    assert free is not None
    assert START + 18 * HOUR < free <= START + 18 * HOUR + 2 * HOUR // 6


@pytest.mark.parametrize(("period", "free"), [("", None), ("month", "2026-02-01T00:00:00Z")])
def test_a_month_is_free_again_when_it_ends_and_for_ever_is_never(period: str, free: str | None) -> None:
    account = settled(opened(opening(START, parse_period(period)), Held(WHOLE, START), START), START + HOUR)

    assert free_again(account, PER_HOUR) == (read_time(free) if free else None)
    assert free_again(account, 0) is None


def test_a_month_begins_in_its_zone() -> None:
    kolkata = parse_period("month Asia/Kolkata")
    new_year = read_time("2025-12-31T18:30:00Z") or 0
    account = opened(opening(new_year - HOUR, kolkata), Held(WHOLE, 0), new_year - HOUR)
    assert total(settled(account, new_year - 1)).used == (HOUR - 1) * WHOLE
    assert total(settled(account, new_year + 5)).used == 5 * WHOLE


@pytest.mark.parametrize("text", ["fortnight", "0h", "99999h", "month Atlantis", "month UTC x", "1.5h", "month ../x"])
def test_no_other_periods(text: str) -> None:
    with pytest.raises(PeriodError):
        parse_period(text)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"v":2}', "[" * 9000, '{"v":1,"at":"x","held":1,"spans":[]}']
)
def test_what_is_no_account_is_refused(text: str) -> None:
    with pytest.raises(AnnotationError):
        read_account(text)
