"""How far long work is, told to whoever listens.

Work that may take longer than some seconds says what it is and how much of it is done:

```python
for image in tracked(images, "running the file", unit="image"):
    ...
```

Nobody listens unless someone asks to. The command line does (`larq_ensemble.console.progress`), and
so may a program:

```python
with listening(lambda work: print(work.what, work.done, work.total)):
    ensemble.predict(images)
```
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Called when a piece of work begins, after each part of it, and when it ends.
Listener = Callable[["Work"], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_current: ContextVar[Work | None] = ContextVar("current", default=None)


@dataclass(eq=False)
class Work:
    """A piece of work.

    # Arguments
        what: what is done, such as `"training"`.
        unit: what is counted, in the singular.
        total: how many there are.
        outer: the work that this is a part of.

    # Attributes
        detail: where it is, such as `"epoch 3 of 20"`.
        done: how many are done.
        next: how many units the part that runs now stands for.
        ended: whether it is over, finished or not.
    """

    what: str
    unit: str
    total: int
    outer: Work | None = None
    detail: str = ""
    done: int = 0
    next: int = 1
    ended: bool = field(default=False, init=False)

    def advance(self, count: int) -> None:
        """Tells that `count` more are done."""
        self.done += count
        self.tell()

    def tell(self) -> None:
        """Tells the listener how things are."""
        listener = _listener.get()
        if listener is not None:
            listener(self)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Has `listener` told of all work in the body; the listener before is not told."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def working(what: str, total: int, *, unit: str) -> Iterator[Work]:
    """A piece of work, whose parts the body tells by `advance`; work in the body is part of it."""
    work = Work(what, unit, total, _current.get())
    token = _current.set(work)
    work.tell()
    try:
        yield work
    finally:
        _current.reset(token)
        work.ended = True
        work.tell()


def tracked(
    items: Iterable[Item],
    what: str,
    *,
    unit: str,
    total: int | None = None,
    size: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Item]:
    """The items; tells of each when the next is asked for.

    # Arguments
        items: a list or another iterable.
        what, unit: see `Work`.
        total: the sum of the items' sizes; `None`: the number of items.
        size: how many units an item is.
    """
    if _listener.get() is None:
        yield from items
        return
    length: Any = items
    with working(what, len(length) if total is None else total, unit=unit) as work:
        for item in items:
            yield item
            work.advance(size(item))
