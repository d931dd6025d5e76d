"""What happens to a task that comes while another one runs."""

from __future__ import annotations

import threading
import time

from ggufpack.integrations.tasks import Tasks, WhenBusy


class Work:
    """Tasks that end when they are told to."""

    def __init__(self, when_busy: WhenBusy, limit: int = 2) -> None:
        self.done: list[int] = []
        self.started: list[int] = []
        self.go = threading.Semaphore(0)
        self.tasks: Tasks[int] = Tasks(self._do, when_busy, limit)

    def _do(self, number: int) -> None:
        self.started.append(number)
        assert self.go.acquire(timeout=10)
        self.done.append(number)

    def finish(self, count: int) -> list[int]:
        for _ in range(count):
            self.go.release()
        assert self.tasks.join(10)
        return self.done


def test_a_queue_gives_up_the_oldest_that_waits() -> None:
    work = Work("queue", limit=2)
    assert [work.tasks.put(number) for number in range(5)] == [[], [], [], [1], [2]]
    assert work.finish(3) == [0, 3, 4]


def test_latest_keeps_the_newest() -> None:
    work = Work("latest", limit=9)
    assert [work.tasks.put(number) for number in range(4)] == [[], [], [1], [2]]
    assert work.finish(2) == [0, 3]


def test_wait_blocks_the_caller_until_the_one_before_is_done() -> None:
    work = Work("wait")
    assert work.tasks.put(0) == []
    threading.Timer(0.2, work.go.release).start()
    began = time.monotonic()
    assert work.tasks.put(1) == []
    assert time.monotonic() - began >= 0.15
    assert work.done == [0]
    assert work.finish(1) == [0, 1]


def test_a_new_task_after_all_were_done_runs() -> None:
    work = Work("queue")
    work.tasks.put(0)
    work.finish(1)
    work.tasks.put(1)
    assert work.finish(1) == [0, 1]


def test_cancelled_tasks_never_start() -> None:
    work = Work("queue")
    for number in range(3):
        work.tasks.put(number)
    assert work.tasks.cancel() == [1, 2]
    assert work.finish(1) == [0]
    assert work.started == [0]


def test_join_says_when_time_is_up() -> None:
    work = Work("queue")
    assert work.tasks.join(0)
    work.tasks.put(0)
    assert not work.tasks.join(0.05)
    work.finish(1)
