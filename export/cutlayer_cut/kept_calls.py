"""What autograd must see of a user's code that a trace would lose: ``no_grad`` regions and ``autograd.Function``.

A trace records operations. It would record those inside an ``autograd.Function`` too, and so differentiate them instead
of calling its ``backward``; and it forgets in which gradient mode an operation ran.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Applied", "MethodOf", "Record", "WithoutGradient", "call_without_gradient", "functions_kept"]

_Function = torch.autograd.Function
Record = Callable[[Callable[..., Any], type[_Function], tuple[Any, ...], dict[str, Any]], Any]
"""Given the real ``apply``, its class and its arguments: what the call gives."""


class _Call:
    """A function that a graph can hold: `torch.fx` writes it into code under its name."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name


class Applied(_Call):
    """``apply`` of an ``autograd.Function``."""

    def __init__(self, function: type[_Function]) -> None:
        super().__init__(f"apply_{function.__name__}")
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self._function.apply(*args, **kwargs)  # type: ignore[no-untyped-call]


class WithoutGradient(_Call):
    """A function that runs inside ``torch.no_grad()``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(f"{getattr(function, '__name__', 'call')}_without_gradient".replace(".", "_"))
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return call_without_gradient(self._function, *args, **kwargs)


class MethodOf(_Call):
    """The method ``name`` of its first argument."""

    def __call__(self, owner: Any, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return getattr(owner, self.__name__)(*args, **kwargs)


def call_without_gradient(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)`` inside ``torch.no_grad()``."""
    with torch.no_grad():
        return function(*args, **kwargs)


@contextmanager
def functions_kept(record: Record) -> Iterator[None]:
    """While tracing, let ``record`` say what each call of an ``autograd.Function`` gives."""
    own = _Function.__dict__["apply"]

    def apply(cls: type[_Function], *args: Any, **kwargs: Any) -> Any:
        call = own.__get__(None, cls)
        users = cls.__module__.split(".")[0] != "torch"  # torch's own are made of differentiable operations
        return record(call, cls, args, kwargs) if users else call(*args, **kwargs)

    _Function.apply = classmethod(apply)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        _Function.apply = own  # type: ignore[method-assign]
