"""The screen of a run: a live table where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live

from gradmq.view.figures import Figures
from gradmq.view.plain import PlainLines
from gradmq.view.summary import RunEnd, summary
from gradmq.view.table import Progress, render


class Screen:
    """Draws statuses as they come; for one thread."""

    def __init__(self, higher_is_better: bool | None = None) -> None:
        self.figures = Figures(higher_is_better)
        self.console = Console(highlight=False)
        self._plain = PlainLines()
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            # What is drawn comes from this thread alone; rich's own refresh thread has no part.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, status: Mapping[str, Any], progress: Progress | None, now: float) -> None:
        """Show a status; ``now`` is in seconds of a clock that never turns back."""
        self.figures.update(status, now)
        if self._live is None:
            for line in self._plain.lines(self.figures):
                self.console.print(line, soft_wrap=True, markup=False)
            return
        size = self.console.size
        table = render(self.figures, progress, width=size.width, height=size.height - 1)
        self._live.update(table, refresh=True)

    def say(self, text: str) -> None:
        """One line of news, above the table."""
        self.console.print(text, soft_wrap=True, markup=False)

    def summary(self, end: RunEnd) -> None:
        """The end of the run, below whatever was shown."""
        self.console.print(summary(end), soft_wrap=True)


def print_status(status: Mapping[str, Any]) -> None:
    """One status, as the live table shows it."""
    console = Console(highlight=False)
    figures = Figures()
    figures.update(status, 0.0)
    console.print(render(figures, width=console.width))
