"""What tests do when the product reaches a crash point: kill the process, or run something else."""

import os
import resource
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass

from klaviyo_assets.seams import CrashPoint, set_crash_hook


@dataclass(frozen=True, slots=True)
class KillAt:
    """Kills the process when it reaches `point` for the `count`-th time, counted from 1.

    With `since`, counting begins when that point is reached first. With `max_file_bytes`, the
    kernel ends the process a little later: in the write that makes a file larger than that.
    """

    point: CrashPoint
    _: KW_ONLY
    count: int = 1
    since: CrashPoint | None = None
    max_file_bytes: int | None = None

    def arm(self) -> None:
        """Have this process end there."""
        left, is_counting = self.count, self.since is None

        def count_down(point: CrashPoint) -> None:
            nonlocal left, is_counting
            is_counting = is_counting or point == self.since
            if not is_counting or point != self.point:
                return
            left -= 1
            if not left:
                kill_self(self.max_file_bytes)

        set_crash_hook(count_down)


def kill_self(max_file_bytes: int | None) -> None:
    """End this process as `kill -9` does: now, or in a write that goes past `max_file_bytes`."""
    if max_file_bytes is None:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    # Python ignores this signal and reports an error instead, which is not what a kill does.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))


@contextmanager
def run_at_crash_point(
    point: CrashPoint, action: Callable[[], None], *, count: int | None = None
) -> Generator[None]:
    """Call `action` whenever this process reaches the point during the block.

    With `count` it is called once, at the `count`-th time. The points that the action reaches
    itself do not count, so it may run what it interrupts; an error that it raises goes on.
    """
    times = 0

    def call(reached: CrashPoint) -> None:
        nonlocal times
        times += reached == point
        if reached != point or count not in {None, times}:
            return
        set_crash_hook(None)
        try:
            action()
        finally:
            set_crash_hook(call)

    set_crash_hook(call)
    try:
        yield
    finally:
        set_crash_hook(None)
