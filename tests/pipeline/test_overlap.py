"""Work done ahead: order, bounds, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.overlap import Clock, Queue, ahead, chunks, unfinished

TIMEOUT = 10


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def test_results_come_in_the_order_of_the_items_not_of_the_threads(
    pool: ThreadPoolExecutor,
) -> None:
    second_done = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert second_done.wait(TIMEOUT)
        elif item == 1:
            second_done.set()
        return item * 10

    assert list(ahead(pool, call, range(20), 3)) == [item * 10 for item in range(20)]


@pytest.mark.parametrize("depth", [0, 1, 5, 100])
def test_every_item_is_done_once_at_any_depth(pool: ThreadPoolExecutor, depth: int) -> None:
    assert list(ahead(pool, str, range(7), depth)) == list("0123456")


def test_nothing_comes_of_nothing(pool: ThreadPoolExecutor) -> None:
    assert list(ahead(pool, str, [], 3)) == []


def test_no_more_is_begun_than_the_depth_allows(pool: ThreadPoolExecutor) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            drawn.append(item)
            yield item

    results = ahead(pool, str, items(), 3)
    assert drawn == []
    for taken in range(1, 6):
        next(results)
        assert len(drawn) == taken + 3


def test_items_are_worked_on_at_the_same_time(pool: ThreadPoolExecutor) -> None:
    together = threading.Barrier(3, timeout=TIMEOUT)

    def call(item: int) -> int:
        together.wait()
        return item

    assert list(ahead(pool, call, range(6), 3)) == list(range(6))


def test_what_waits_for_its_call_or_is_in_it_is_seen(pool: ThreadPoolExecutor) -> None:
    begun: Queue[int, int] = Queue()
    free = threading.Event()

    def call(item: int) -> int:
        assert item == 0 or free.wait(TIMEOUT)
        return item

    results = ahead(pool, call, range(10), 6, begun)
    assert next(results) == 0
    assert unfinished(begun) == [1, 2, 3, 4, 5, 6]
    free.set()
    assert list(results) == list(range(1, 10))
    assert unfinished(begun) == []


def test_an_error_comes_in_its_turn_and_ends_the_stage() -> None:
    begun: list[int] = []
    free = threading.Event()

    def call(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("item 1")
        if item == 2:
            assert free.wait(TIMEOUT)
        return item

    with ThreadPoolExecutor(1) as single:
        results = ahead(single, call, range(100), 10)
        assert next(results) == 0
        with pytest.raises(ValueError, match="item 1"):
            next(results)
        free.set()
        assert next(results, "ended") == "ended"
    assert begun in ([0, 1], [0, 1, 2])


def test_without_a_pool_each_item_is_done_where_it_is_taken() -> None:
    begun: Queue[int, int] = Queue()
    seen: list[tuple[int, list[int], int]] = []

    def call(item: int) -> int:
        seen.append((item, unfinished(begun), threading.get_ident()))
        if item == 2:
            raise ValueError("two")
        return item * 10

    results = ahead(None, call, range(9), 5, begun)
    assert seen == []
    here = threading.get_ident()
    assert next(results) == 0
    assert seen == [(0, [0], here)]
    assert unfinished(begun) == []
    assert next(results) == 10
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(seen) == 3


def test_what_is_not_taken_is_not_done() -> None:
    begun: list[int] = []
    free = threading.Event()

    def call(item: int) -> int:
        begun.append(item)
        assert item == 0 or free.wait(TIMEOUT)
        return item

    with ThreadPoolExecutor(1) as single:
        results = ahead(single, call, range(100), 10)
        next(results)
        results.close()
        free.set()
    assert len(begun) <= 2


def test_a_chain_of_stages_is_as_lazy_as_one(pool: ThreadPoolExecutor) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            drawn.append(item)
            yield item

    chain = ahead(pool, str, ahead(pool, abs, items(), 2), 2)
    assert next(chain) == "0"
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (2, [[0, 1]]), (3, [[0, 1, 2]]), (7, [[0, 1, 2], [3, 4, 5], [6]])],
)
def test_chunks_are_full_but_the_last(count: int, expected: list[list[int]]) -> None:
    assert list(chunks(range(count), 3)) == expected


def test_chunks_of_what_is_heavy_are_short() -> None:
    found = list(chunks([1, 1, 1, 1, 5, 1, 9, 9], 3, float, 5))
    assert found == [[1, 1, 1], [1, 5], [1, 9], [9]]


def test_chunks_take_no_more_than_they_give() -> None:
    source = iter(range(100))
    assert next(chunks(source, 4)) == [0, 1, 2, 3]
    assert next(source) == 4


def test_the_clock_sums_each_stage_over_its_threads() -> None:
    clock = Clock()
    both_in = threading.Barrier(2, timeout=TIMEOUT)
    hold = threading.Event()

    def work() -> None:
        with clock.busy("decode"):
            both_in.wait()
            hold.wait(0.05)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds["decode"] > 0.09
    assert clock.seconds["encode"] == 0


def test_the_clock_counts_work_that_failed() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock.busy("decode"):
        threading.Event().wait(0.02) or 1 // 0
    assert clock.seconds["decode"] > 0.01
