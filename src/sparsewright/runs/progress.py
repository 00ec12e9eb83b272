"""Show a run's progress on stderr."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_PLAIN_LINES = 10  # progress lines per run if stderr is not a terminal


class Progress:
    """Show a run's progress, as a bar on a terminal or as plain lines; a context manager.

    Args:
        total: steps of the whole run.
        done: steps completed before this process.
        unit: unit of the speed, such as "tokens".
    """

    def __init__(self, total: int, done: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.bar = RichProgress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, completed=done, text="")
        self.smooth: dict[str, float] = {}
        self.churn: float | None = None

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, line: dict[str, Any]) -> None:
        """Show a step's metrics: running means of losses and speed, and the last update's churn."""
        speed = f"{self.unit}_per_second"
        for name in ("loss", "dense_loss", speed):
            if name in line:
                before = self.smooth.get(name, line[name])
                self.smooth[name] = 0.9 * before + 0.1 * line[name]
        text = f"loss {self.smooth['loss']:.3f}"
        if "dense_loss" in self.smooth:
            text += f" (dense {self.smooth['dense_loss']:.3f})"
        self.churn = line.get("churn", self.churn)
        churn = "" if self.churn is None else f"  churn {self.churn:.1%}"
        text += f"  level {line['level']:.3f}{churn}  {self.smooth[speed]:,.0f} {self.unit}/s"
        self.bar.update(self.task, completed=line["step"], text=text)
        if not self.console.is_terminal and line["step"] % max(1, self.total // _PLAIN_LINES) == 0:
            self.console.print(f"step {line['step']}/{self.total}  {text}")

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Show the metrics of an evaluation."""
        text = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        self.console.print(f"step {step}/{self.total}  validation: {text}")
