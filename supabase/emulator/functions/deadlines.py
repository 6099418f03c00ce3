"""Time limits of many requests at once.

One sweep looks after all of them: a timer for each would cost more than all the rest of reaching a function.
"""

import asyncio
from collections.abc import Awaitable

SWEEP_SECONDS = 0.1


class Deadlines:
    def __init__(self) -> None:
        self._due: dict[asyncio.Task[object], float] = {}
        self._cut: set[asyncio.Task[object]] = set()
        self._sweeping = False

    async def run(self, seconds: float, work: Awaitable[None]) -> None:
        """Await `work` in the current task; TimeoutError when it takes longer."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._due[task] = loop.time() + seconds
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        try:
            await work
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
            task.uncancel()
            raise TimeoutError from None
        finally:
            del self._due[task]
            self._cut.discard(task)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, due in self._due.items():
            if due < now and task not in self._cut:
                self._cut.add(task)
                task.cancel()
        self._sweeping = bool(self._due)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
