"""Figures for people."""

from __future__ import annotations

import pytest

from pipeline.text import plural, size, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (7.96, "8.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d 0 h"),
        (356_400, "4 d 3 h"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (712, "712 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4_200_000, "4.2 MB"),
        (99_400, "99.4 kB"),
        (99_600, "100 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (56_000_000_000, "56.0 GB"),
        (1_300_000_000_000, "1.3 TB"),
        (4_500_000_000_000_000, "4500.0 TB"),
    ],
)
def test_a_size_is_told_in_the_unit_that_keeps_it_short(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (2000, "2,000 images")]
)
def test_only_one_is_singular(count: int, text: str) -> None:
    assert plural(count, "image") == text
