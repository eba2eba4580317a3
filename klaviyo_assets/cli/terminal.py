"""How the console command speaks, asks, and ends: errors, JSON, questions, and Ctrl-C.

Ctrl-C ends it within two seconds, whatever it waits for. Tables and bars are in `tables.py`.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import NoReturn

from klaviyo_assets.errors import SettingError

INTERRUPTED_EXIT_CODE = 130

GRACE_SECONDS = 1.7
"""How long the work may take to end in order after Ctrl-C. It is safe against a kill at any point,
so it is ended then."""

STOPPED_LINE = "stopped by Ctrl-C"


def describe_interrupt(kept: str) -> str:
    """Return what the command says after Ctrl-C: what was kept, and a last line."""
    return f"{kept}\n{STOPPED_LINE}"


_callbacks: list[Callable[[], None]] = []


@contextmanager
def call_on_interrupt(callback: Callable[[], None]) -> Generator[None]:
    """Have `callback` called in another thread as soon as Ctrl-C is heard within the block."""
    _callbacks.append(callback)
    try:
        yield
    finally:
        _callbacks.remove(callback)


LAST_WORDS_SECONDS = 0.25
"""How long what is called before the process is ended may take, so that two seconds suffice."""

_last_callbacks: list[Callable[[], None]] = []


@contextmanager
def call_before_forced_end(callback: Callable[[], None]) -> Generator[None]:
    """Have `callback` called in another thread if the process is ended within the block.

    It has 0.25 seconds; an error of it is ignored.
    """
    _last_callbacks.append(callback)
    try:
        yield
    finally:
        _last_callbacks.remove(callback)


@contextmanager
def end_soon_after_interrupt(kept: str) -> Generator[None]:
    """End the process if the block does not end soon after a Ctrl-C; `kept` is said then.

    A first Ctrl-C raises KeyboardInterrupt as ever, but only between two steps of Python: a query
    of DuckDB or a read of the disk may take minutes. So a thread hears of the signal as well. Does
    nothing outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hearing, waking = os.pipe()
    os.set_blocking(waking, False)
    before = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    done = threading.Event()
    watcher = threading.Thread(target=_watch_interrupts, args=(hearing, done, kept), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(waking)
        watcher.join()
        os.close(hearing)


def _watch_interrupts(hearing: int, done: threading.Event, kept: str) -> None:
    """End the process some time after SIGINT was heard, unless `done` is set by then."""
    while heard := os.read(hearing, 64):
        if signal.SIGINT in heard:
            for callback in tuple(_callbacks):
                callback()
            if not done.wait(GRACE_SECONDS):
                _end_process(kept)


def _call_last_callbacks() -> None:
    for callback in tuple(_last_callbacks):
        with suppress(Exception):
            callback()


def _end_process(kept: str) -> NoReturn:
    last = threading.Thread(target=_call_last_callbacks, daemon=True)
    last.start()
    last.join(LAST_WORDS_SECONDS)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        os.write(2, f"{describe_interrupt(kept)}\n".encode())
    os._exit(INTERRUPTED_EXIT_CODE)


def print_errors(problems: Iterable[object]) -> None:
    """Print each problem as a line on standard error."""
    for problem in problems:
        print(problem, file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as JSON; what JSON does not know, such as times, becomes its text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def confirm(question: str, *, is_confirmed: bool, without_terminal: str) -> bool:
    """Return whether the user agrees; `is_confirmed` is the option --yes.

    Raises:
        SettingError: nobody can answer; `without_terminal` says that nothing was done.
    """
    if is_confirmed:
        return True
    if not sys.stdin.isatty():
        raise SettingError(f"{without_terminal}: give --yes if that is meant")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
