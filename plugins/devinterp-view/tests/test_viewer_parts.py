"""Parts of the viewer: pages, what is kept, and work that is shared, told of and stopped."""

from __future__ import annotations

import asyncio
import threading
import time

import dask
import dask.array as da
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp_view.job import Progress, Stopped, scheduler
from devinterp_view.server.cache import Cache
from devinterp_view.server.jobs import Jobs
from devinterp_view.server.paging import Paging


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 70))
def test_every_token_stands_on_one_page_and_no_page_is_too_long(num_sequences, num_tokens, page_tokens):
    paging = Paging(num_sequences, num_tokens, page_tokens)
    seen = []
    for page in range(paging.num_pages):
        parts = paging.on_page(page)
        assert sum(tokens.stop - tokens.start for _, tokens in parts) <= max(page_tokens, 1)
        for sequence, tokens in parts:
            for token in range(tokens.start, tokens.stop):
                assert paging.page_of(sequence, token) == page
                seen.append((sequence, token))
    assert seen == [(s, t) for s in range(num_sequences) for t in range(num_tokens)]


def test_what_was_not_asked_for_longest_is_forgotten():
    cache = Cache(100)
    for n in range(10):
        cache.put(n, str(n), 20)
        cache.get(0)
        assert cache.num_bytes <= 100
    assert [n for n in range(10) if cache.get(n) is not None] == [0, 6, 7, 8, 9]
    cache.put("large", "x", 101)
    assert cache.get("large") is None
    assert cache.get(0) == "0"
    cache.put(0, "new", 10)
    assert (cache.get(0), cache.num_bytes) == ("new", 90)


async def collect(jobs, key, work, seen=None):
    seen = [] if seen is None else seen
    async for news in jobs.follow(key, work):
        seen.append(news)
    return seen


def test_one_job_serves_all_who_ask_for_the_same():
    jobs, calls, gate = Jobs(), [], threading.Event()

    def work(job):
        calls.append(job)
        gate.wait(5)
        return "done"

    async def main():
        both = [asyncio.create_task(collect(jobs, "key", work)) for _ in range(2)]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*both)

    for seen in asyncio.run(main()):
        assert seen[-1].result() == "done"
    assert len(calls) == 1
    assert not jobs.is_busy
    jobs.close()


def test_a_job_stops_when_nobody_waits_any_more():
    jobs, started, ended = Jobs(), threading.Event(), []

    def work(job):
        started.set()
        try:
            for n in range(1000):
                time.sleep(0.01)
                job.tell(f"{n}", n / 1000)
        except Stopped:
            ended.append("stopped")
            raise

    async def main():
        first, second = (asyncio.create_task(collect(jobs, "key", work)) for _ in range(2))
        await asyncio.to_thread(started.wait, 5)
        first.cancel()
        await asyncio.sleep(0.2)
        assert not ended  # the other still waits
        second.cancel()
        for _ in range(100):
            if ended:
                break
            await asyncio.sleep(0.02)

    asyncio.run(main())
    assert ended == ["stopped"]
    jobs.close()


def test_computing_with_dask_tells_how_far_it_is_and_can_be_stopped():
    jobs, done = Jobs(), []

    def slow(block):
        time.sleep(0.02)
        done.append(1)
        return block

    array = da.zeros(200, chunks=1).map_blocks(slow, dtype=float)

    async def main():
        seen = []
        with dask.config.set(scheduler=scheduler):
            task = asyncio.create_task(collect(jobs, "key", lambda job: array.sum().compute(), seen))
            while not any(isinstance(each, Progress) and each.share > 0 for each in seen):
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.3)
            after = len(done)
            await asyncio.sleep(0.3)
            return seen, after

    seen, after = asyncio.run(main())
    assert any("parts" in each.text for each in seen)
    assert len(done) == after < 200
    jobs.close()


def test_what_fills_a_page_waits_for_what_somebody_asked():
    asked = Jobs()
    background = Jobs(1, yields_to=asked)
    order, gate = [], threading.Event()

    def page(job):
        for n in range(3):
            job.tell(str(n), 0)
            order.append(f"page {n}")
            time.sleep(0.15)

    def query(job):
        gate.wait(5)
        order.append("query")

    async def main():
        first = asyncio.create_task(collect(background, "page", page))
        while "page 0" not in order:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(collect(asked, "query", query))
        await asyncio.sleep(0.5)
        gate.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert order == ["page 0", "query", "page 1", "page 2"]
    asked.close()
    background.close()


def test_what_goes_wrong_in_a_job_is_handed_on():
    jobs = Jobs()
    seen = asyncio.run(collect(jobs, "key", lambda job: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        seen[-1].result()
    jobs.close()
