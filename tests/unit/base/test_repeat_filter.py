"""What is tried over and over is not said over and over."""

from __future__ import annotations

from driver.base.repeat_filter import RepeatFilter


def test_the_same_words_are_news_once() -> None:
    repeats = RepeatFilter()

    assert [repeats.is_news("a", "it is broken") for _ in range(3)] == [True, False, False]


def test_other_words_and_other_things_are_news() -> None:
    repeats = RepeatFilter()
    repeats.is_news("a", "it is broken")

    assert repeats.is_news("a", "it is gone")
    assert repeats.is_news("b", "it is gone")


def test_after_a_while_the_same_words_are_news_again() -> None:
    repeats = RepeatFilter(again_seconds=0.0)

    assert [repeats.is_news("a", "it is broken") for _ in range(2)] == [True, True]


def test_what_works_again_breaks_anew() -> None:
    repeats = RepeatFilter()
    repeats.is_news("a", "it is broken")

    assert [repeats.over("a"), repeats.over("a")] == [True, False]
    assert repeats.is_news("a", "it is broken")
