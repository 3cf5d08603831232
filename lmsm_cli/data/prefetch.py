"""Work out the next batch in a thread while the one before it is used.

Only for what the host does alone, such as reading a file: while a CUDA graph is captured, no other
thread may call CUDA.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(get: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `get(item)` of each item in order, each worked out while the one before it is used.

    What `get` raises is raised where its result would come. When the iterator ends or is closed no
    thread of it is left.
    """
    latest: _Call[Result] | None = None
    try:
        for item in items:
            if latest is None:
                latest = _Call(get, item)
                continue
            result = latest.result()
            latest = _Call(get, item)
            yield result
            del result  # not kept until there is another
        if latest is not None:
            yield latest.result()
    finally:
        if latest is not None:
            latest.end()


class _Call(Generic[Result]):
    """A call of a function in a thread that ends with it, so that none waits for a next one."""

    def __init__(self, get: Callable[[Item], Result], item: Item) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._future = self._thread.submit(get, item)
        self._thread.shutdown(wait=False)

    def result(self) -> Result:
        """Wait for the result. Raises what the function raised."""
        try:
            return self._future.result()
        finally:
            self.end()

    def end(self) -> None:
        """Wait until the thread is gone."""
        self._thread.shutdown()
