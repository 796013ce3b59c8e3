"""Finds the line of a model's code at which its path depends on the batch, or at which it failed."""

import linecache
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

__all__ = ["users_line", "where_paths_part"]

_Place = tuple[CodeType, int, int]
"""A function, a line in it, and an instruction, since a line may hold a condition and both of its sides."""
_MOST_PLACES = 1_000_000
_NOT_THE_USERS = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"), str(Path(__file__).parent), "<")
_OURS = "cutlayer_export"
"""What calls the model while its path is followed; it stands above this package."""


def where_paths_part(run: Callable[[Tensor], Any], first: Tensor, second: Tensor) -> str:
    """The line after which ``run`` goes another way for ``second`` than for ``first``; empty if it never does.

    Lines of torch and of the standard library do not count.
    """
    one, other = _places_passed(run, first), _places_passed(run, second)
    apart = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if apart is None:
        return ""
    # The condition may have called another function, so look for the function that went on in two ways.
    codes = {one[apart][0], other[apart][0]}
    code, line, _ = next((place for place in reversed(one[:apart]) if place[0] in codes), one[apart])
    return _line(code.co_filename, line)


def users_line(error: Exception) -> str:
    """The innermost line of the user's own code that an error passed; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not each.filename.startswith(_NOT_THE_USERS) and each.lineno]
    return _line(own[-1].filename, own[-1].lineno or 0) if own else ""


def _line(file: str, number: int) -> str:
    return f"{file}:{number}: {linecache.getline(file, number).strip()}"


def _places_passed(run: Callable[[Tensor], Any], x: Tensor) -> list[_Place]:
    passed: list[_Place] = []

    def follow(frame: FrameType, event: str, _: Any) -> Any:
        ours = frame.f_globals.get("__name__", "").startswith(_OURS)
        if ours or frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and len(passed) < _MOST_PLACES:
            passed.append((frame.f_code, frame.f_lineno, frame.f_lasti))
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        run(x)
    finally:
        sys.settrace(before)
    return passed
