"""What libraries log is bounded; what the driver logs is not."""

from __future__ import annotations

import logging

from driver.observe.logs import BURST, BURST_SECONDS, Rarely, TextFormatter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def line(logger: str, text: str = "socket.accept() out of system resource") -> logging.LogRecord:
    return logging.LogRecord(logger, logging.ERROR, "", 0, text, None, None)


def written(rarely: Rarely, logger: str, count: int) -> int:
    return sum(bool(rarely.filter(line(logger, f"line {number}"))) for number in range(count))


def test_a_library_says_only_so_many_lines_a_minute() -> None:
    clock = Clock()
    rarely = Rarely(clock=clock)

    assert written(rarely, "asyncio", 10_000) == BURST
    clock.now += BURST_SECONDS
    assert written(rarely, "asyncio", 10_000) == BURST


def test_the_next_line_says_how_many_were_left_out() -> None:
    clock = Clock()
    rarely = Rarely(clock=clock)
    written(rarely, "asyncio", BURST + 5)
    clock.now += BURST_SECONDS
    record = line("asyncio")

    assert rarely.filter(record)

    assert TextFormatter().format(record).endswith("socket.accept() out of system resource not_logged=5")


def test_libraries_do_not_count_for_each_other() -> None:
    rarely = Rarely(clock=Clock())
    written(rarely, "asyncio", 1000)

    assert written(rarely, "grpc._cython.cygrpc", 1) == 1


def test_what_the_driver_says_is_always_written() -> None:
    assert written(Rarely(clock=Clock()), "driver.claims.prepare", 1000) == 1000
