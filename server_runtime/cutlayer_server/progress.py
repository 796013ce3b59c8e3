"""What the person in front of the server sees while a trial runs: computed from the events of its record."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cutlayer_core.record.events import Ended, EpochDone, Event, Joined, Missed, Quarantined, Resumed, Started, Step

__all__ = ["ProgressDisplay"]


class ProgressDisplay:
    """A line an epoch, and on a terminal a bar with the running epoch beneath. A context manager.

    Args:
        epochs: how many there are at most.
        console: where to write.
    """

    def __init__(self, epochs: int, console: Console) -> None:
        self._epochs, self._console = epochs, console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[live]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._steps: list[Step] = []
        self._epoch_began_s = 0.0

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def waiting_for(self, missing: list[str]) -> None:
        """The devices that have not joined yet."""
        if missing:
            self._console.print(f"waiting for {', '.join(missing)} to join")

    def show(self, event: Event) -> None:
        """Take one event of the record."""
        match event:
            case Started():
                self._begin(event)
            case Step():
                self._advance(event)
            case EpochDone():
                self._finish_epoch(event)
            case Resumed():
                self._go_back(event)
            case Quarantined():
                self._console.print(f"{event.device} is left out from now on: {event.reason}", soft_wrap=True)
            case Missed():
                self._console.print(f"going on without {event.device}: {event.reason}", soft_wrap=True)
            case Joined():
                self._console.print(
                    f"{event.device} takes part from epoch {event.epoch + 1} on ({event.samples} samples)"
                )
            case Ended(ok=True):
                self._console.print(event.reason)

    def _begin(self, event: Started) -> None:
        joined = ", ".join(f"{name} ({samples} samples)" for name, samples in event.devices.items())
        self._console.print(f"joined: {joined}")
        self._steps, self._epoch_began_s = [], event.time_s
        self._running()

    def _running(self) -> TaskID:
        """The bar, with the columns above it; both are begun once."""
        if self._task is None:
            columns = f"{'epoch':>5} {'loss':>8} {'test acc':>9} {'kB up':>8} {'kB down':>8} {'steps/s':>8}"
            self._console.print(columns)
            self._task = self._bar.add_task("epoch 1", total=self._epochs, live="")
        return self._task

    def _go_back(self, event: Resumed) -> None:
        self._console.print(f"{event.reason}: going on from step {event.step} of epoch {event.epoch + 1}")
        self._steps, self._epoch_began_s = [], event.time_s
        self._bar.update(self._running(), completed=event.epoch)

    def _advance(self, event: Step) -> None:
        self._steps.append(event)
        if self._task is None:
            return
        rate = len(self._steps) / max(event.time_s - self._epoch_began_s, 1e-9)
        accuracy = sum(step.correct for step in self._steps) / sum(step.samples for step in self._steps)
        up, down = (sum(getattr(step, f"{way}_payload_bytes") for step in self._steps) / 1e3 for way in ("up", "down"))
        live = f"loss {event.loss:.3f}  acc {accuracy:.0%}  {up:.0f} kB up  {down:.0f} kB down  {rate:.0f} steps/s"
        self._bar.update(self._task, description=f"epoch {event.epoch + 1} {event.device}", live=live)

    def _finish_epoch(self, event: EpochDone) -> None:
        columns = (
            f"{event.epoch + 1:5d}",
            f"{event.loss:8.4f}",
            f"{event.test_accuracy:9.1%}",
            f"{event.up_bytes / 1e3:8.1f}",
            f"{event.down_bytes / 1e3:8.1f}",
            f"{event.steps / event.duration_s:8.1f}",
        )
        self._console.print(" ".join(columns), highlight=False)
        self._steps, self._epoch_began_s = [], event.time_s
        if self._task is not None:
            self._bar.advance(self._task)
