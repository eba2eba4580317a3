"""Tables and bars: rich draws them on a terminal; elsewhere they are plain lines.

rich leaves colors out where NO_COLOR is set. A pipe gets columns as wide as their content, so that
nothing is cut.
"""

import sys
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 10_000
"""Wider than any table, in characters."""

STYLES = {
    "ok": "green",
    "yes": "green",
    "no": "red",
    "wrong": "bold red",
    "warning": "yellow",
    **{each: each for each in ("green", "yellow", "red")},
}
"""The color of a cell that has just this word."""


def build_console(*, is_error: bool = False) -> Console:
    """Return a console on standard output or standard error that prints texts as they are."""
    stream = sys.stderr if is_error else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else PIPE_COLUMNS,
        markup=False,
        emoji=False,
        highlight=False,
    )


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()
) -> None:
    """Print rows under their headings; the columns of `numbers` are aligned to the right."""
    console = build_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            no_wrap=not console.is_terminal,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    with console.capture() as printed:
        console.print(table)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


PROGRESS_LINE_SECONDS = 10.0
"""How often progress is printed where standard error is no terminal."""

BAR_CELLS = 40


class ProgressPrinter:
    """Prints how far a work is: a bar on a terminal, elsewhere now and then a line."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.is_terminal, self.printed_at = out, out.isatty(), monotonic()

    def show(self, name: str, share: float) -> None:
        """Show that `name` is at work, and which share is done, 0 to 1."""
        if self.is_terminal:
            bar = "#" * round(share * BAR_CELLS)
            self._print(f"\r\x1b[K{name:<28} [{bar:<{BAR_CELLS}}] {share:4.0%}", end="")
        elif monotonic() - self.printed_at >= PROGRESS_LINE_SECONDS:
            self._print(f"{name:<28} {share:>11.0%} so far")

    def finish(self, line: str = "") -> None:
        """Replace the bar by a line; without one, by nothing."""
        clear = "\r\x1b[K" if self.is_terminal else ""
        if line or clear:
            self._print(f"{clear}{line}", end="\n" if line else "")

    def _print(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self.out, flush=True)
        self.printed_at = monotonic()
