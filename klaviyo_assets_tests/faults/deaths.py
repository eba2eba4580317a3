"""Runs that die at a chosen call of the product, in a process of their own.

What belongs here: the moments, and dying at them. What does not: what must be left (the tests).
Nothing of the product is replaced: a call is let through, and the process ends before it, after it,
or inside it, where the kernel stops it (SIGXFSZ) at the first bytes that it writes to a file.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Literal

from klaviyo_assets.__main__ import main
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.lives import Life, Orders, carry_out_and_exit, orders_of
from klaviyo_assets_tests.forks import FORKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A call: `owner` as `module:Class` or `module`, the name, which of its calls, from 1."""

    owner: str
    name: str
    when: Literal["before", "inside", "after"]
    count: int = 1

    def arrange(self) -> None:
        """Have this process end at the moment."""
        owner = resolve_name(self.owner)
        real: Callable[..., object] = getattr(owner, self.name)
        left = self.count

        def called(*words: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left:
                return real(*words, **named)
            if self.when == "before":
                die()
            if self.when == "inside":
                die_at_the_next_byte()
            result = real(*words, **named)
            die()
            return result

        setattr(owner, self.name, called)


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_the_next_byte() -> None:
    """Have the kernel end this process in the midst of the next write to a file.

    A file may not pass 100 bytes, and Python's habit of ignoring the signal for that is undone.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def dying(
    home: Home,
    *streams: str,
    at: Moment,
    config: Mapping[str, str] | None = None,
    commit_bytes: int = 0,
) -> Life:
    """Start a sync that dies at the moment; its exit code tells of the signal."""
    orders = orders_of(home, *streams, config=config, commit_bytes=commit_bytes)
    process = FORKS.Process(target=live_until, args=(orders, at))
    process.start()
    return Life(process)


def erasing(home: Home, *ids: str, at: Moment) -> Life:
    """Start an erasure that dies at the moment."""
    process = FORKS.Process(target=erase_until, args=(home.variables, ids, at))
    process.start()
    return Life(process)


def erase_until(variables: Mapping[str, str], ids: Sequence[str], at: Moment) -> None:
    """Erase people until the moment."""
    os.environ.update(variables)
    at.arrange()
    sys.exit(main(["erase", *ids]))


def live_until(orders: Orders, at: Moment) -> None:
    """Carry out the orders until the moment."""
    at.arrange()
    carry_out_and_exit(orders)
