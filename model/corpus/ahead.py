"""Work done ahead of its use, by a thread."""

import atexit
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Generator[T, None, None], count: int) -> Iterator[T]:
    """`items`, taken by a thread of its own up to `count` before they are asked for.

    The thread ends with the items, with the iterator, or with the process.
    """
    ready: Queue[tuple[bool, T | BaseException | None]] = Queue(maxsize=count)
    over = threading.Event()

    def put(more: bool, item: T | BaseException | None) -> None:
        while not over.is_set():
            try:
                ready.put((more, item), timeout=0.1)
                return
            except Full:
                pass

    def work() -> None:
        try:
            with closing(items):
                for item in items:
                    put(True, item)
                    if over.is_set():
                        return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=work, name="read ahead", daemon=True)

    def end() -> None:
        over.set()
        thread.join(timeout=5)

    # A daemon that the interpreter cuts off inside of C++ code can abort the process: it is asked to end before.
    atexit.register(end)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if not more:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]
    finally:
        atexit.unregister(end)
        end()
