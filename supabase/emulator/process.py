"""A child process that cannot outlive this one, and that is started again whenever it dies."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PR_SET_PDEATHSIG = 1
LASTING_SECONDS = 5.0
LONGEST_PAUSE = 5.0
_libc = ctypes.CDLL(None, use_errno=True)

type Process = subprocess.Popen[bytes]


def die_with_parent(sign: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """For preexec_fn: the kernel sends the signal when the parent dies, however it dies.

    It runs after the change of user, which would clear the setting again.
    """
    parent = os.getpid()

    def ask_kernel() -> None:
        _ask_kernel(sign)
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


def die_with(parent: int) -> None:
    """End this process when its parent dies: `kill -9` of make must not leave a hub behind."""
    _ask_kernel(signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _ask_kernel(sign: signal.Signals) -> None:
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, int(sign))


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending. The lines of one that cannot be opened are lost, and the process runs all the same."""
    try:
        return path.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


class Child:
    """A child process: restarted at once, but with growing pauses while it keeps failing at its start."""

    def __init__(
        self, name: str, start: Callable[[], Process], log: Path, say: Callable[[str], None]
    ) -> None:
        self.name = name
        self.log = log
        self._start = start
        self._say = say
        self._failures = 0
        self._start_at = 0.0
        self._started = 0.0
        self.process: Process | None = None

    def start(self) -> None:
        self._started = time.monotonic()
        self.process = self._start()

    @property
    def age(self) -> float:
        return time.monotonic() - self._started

    def keep(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            self._mourn(self.process.returncode)
            self.process = None
        if self.process is None and time.monotonic() >= self._start_at:
            self.start()

    def end(self, sign: signal.Signals, seconds: float) -> bool:
        """Ask the child to end and wait; answers whether it has."""
        if self.process is None:
            return True
        self.process.send_signal(sign)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log_tail(self, lines: int = 12) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return str(error)

    def _mourn(self, code: int) -> None:
        was_killed, was_asked, had_lasted = code < 0, code == 0, self.age > LASTING_SECONDS
        if was_killed or was_asked or had_lasted:
            self._failures = 0
        else:
            self._failures += 1
        pause = min(0.1 * 2**self._failures, LONGEST_PAUSE) if self._failures > 1 else 0.0
        self._start_at = time.monotonic() + pause
        if was_asked:
            return
        how = f"killed by {signal.Signals(-code).name}" if was_killed else f"ended with exit code {code}"
        self._say(f"{self.name}: {how}, starting again{f' in {pause:.1f} s' if pause else ''}")
        if self._failures > 1:
            self._say(
                f"{self.name} has not come up {self._failures} times. The end of {self.log}:\n{self.log_tail()}"
            )
