"""Finds the module of the user's model that an operation comes from, so that an error can name it."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["owner_of"]


def owner_of(text: str, client: nn.Module, x: Tensor) -> str:
    """`` (in the module 'layer.0')`` for the operation that ``text`` names; empty if the module cannot be found."""
    names = [each.removesuffix("_backward").strip("_") for each in re.findall(r"(?:aten|prims)(?:::|\.)(\w+)", text)]
    if not names:
        return ""
    owners = _Owners(client)
    try:
        with torch.no_grad(), owners:
            client(x)
    except Exception:  # noqa: BLE001 - another error is on its way to the user; this one only looks for a name
        return ""
    for name in names:
        for operation, owner in owners.found.items():
            if name in operation or operation.strip("_") in name or name.split("_")[-1] == operation.split("_")[-1]:
                return f" (in the module {owner!r})"
    return ""


class _Owners(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records for each operation the innermost module that called it first."""

    def __init__(self, client: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, str] = {}
        self._stack = [""]
        self._hooks = []
        for name, module in client.named_modules():
            self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name)))
            self._hooks.append(module.register_forward_hook(self._leave))

    def _leave(self, *_: object) -> None:
        """Leave a module; returns nothing, since a hook's result would replace the module's output."""
        self._stack.pop()

    def __exit__(self, *args: object) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*args)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.setdefault(func.__name__.split(".")[0], self._stack[-1])
        return func(*args, **(kwargs or {}))
