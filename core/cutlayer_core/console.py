"""What every command has in common: exit statuses, one-line errors, and signals that end it cleanly."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from cutlayer_core.crash_report import write_crash_report
from cutlayer_core.errors import CutlayerError, UserError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FAILED", "INTERRUPTED", "USER_MISTAKE", "command", "exit_status", "print_wide", "stop_on_sigterm"]

FAILED = 1
USER_MISTAKE = 2
INTERRUPTED = 130


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn our errors into one line on stderr and an exit status: 2 for the user's mistake, 1 for any other.

    Any other exception is a mistake of ours: its traceback goes into a file, which the line names and asks for.
    """
    try:
        yield
    except CutlayerError as error:
        print(f"cutlayer: {error}", file=sys.stderr)
        sys.exit(USER_MISTAKE if isinstance(error, UserError) else FAILED)
    except OSError as error:  # a file or folder that cannot be read or written
        print(f"cutlayer: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("cutlayer: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - whatever we have not thought of
        print(f"cutlayer: {_mistake_of_ours(error)}", file=sys.stderr)
        sys.exit(FAILED)


def _mistake_of_ours(error: Exception) -> str:
    path = write_crash_report(error)
    *_, frame = traceback.extract_tb(error.__traceback__)
    reason = str(error).strip().partition("\n")[0]
    return (
        f"a mistake in cutlayer, not in what you typed: {type(error).__name__}: {reason}\n"
        f"  please report it with {path or f'{frame.filename}:{frame.lineno}'} and, if it is about a model, the code of that "
        "model (CONTRIBUTING.md says where)"
    )


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the program as Ctrl-C does."""

    def interrupt(_signal: int, _frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    # A process started with nohup keeps ignoring SIGHUP.
    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    previous = [signal.signal(each, interrupt) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)


@contextmanager
def command(extra: str, *modules: str) -> Iterator[None]:
    """Check that what a command needs is installed, then run it with our exit statuses.

    torch is in no extra on purpose: which build (CPU, CUDA) is the user's choice, and the wrong one is gigabytes.
    """
    with exit_status(), stop_on_sigterm():
        missing = [name for name in modules if find_spec(name) is None]
        if "torch" in missing:
            raise UserError("this command needs PyTorch: install the build for your machine first (docs/install.md)")
        if missing:
            raise UserError(f"this command needs {', '.join(missing)}: pip install 'cutlayer[{extra}]'")
        yield


def print_wide(table: "Table") -> None:
    """Print a table at its full width: a terminal may wrap it, but nothing is cut off."""
    from rich.console import Console  # only commands that print a table need it

    for column in table.columns:
        column.no_wrap = True
    console = Console(highlight=False, markup=False)  # names may come over a network
    width = console.measure(table, options=console.options.update(max_width=1000)).maximum
    Console(highlight=False, markup=False, width=width).print(table)
