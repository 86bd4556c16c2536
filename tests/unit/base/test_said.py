"""What is tried over and over is not said over and over."""

from __future__ import annotations

from driver.base.said import Said


def test_the_same_words_are_news_once() -> None:
    said = Said()

    assert [said.is_news("a", "it is broken") for _ in range(3)] == [True, False, False]


def test_other_words_and_other_things_are_news() -> None:
    said = Said()
    said.is_news("a", "it is broken")

    assert said.is_news("a", "it is gone")
    assert said.is_news("b", "it is gone")


def test_after_a_while_the_same_words_are_news_again() -> None:
    said = Said(again_seconds=0.0)

    assert [said.is_news("a", "it is broken") for _ in range(2)] == [True, True]


def test_what_works_again_breaks_anew() -> None:
    said = Said()
    said.is_news("a", "it is broken")

    assert [said.over("a"), said.over("a")] == [True, False]
    assert said.is_news("a", "it is broken")
