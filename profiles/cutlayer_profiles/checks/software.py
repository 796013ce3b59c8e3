"""Python, the packages that each command needs, and the engines: found without importing any of them."""

import struct
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import NamedTuple

from cutlayer_core import __version__
from cutlayer_core.engines import ENGINES, EngineNeeds
from cutlayer_profiles.checks.base import Check

__all__ = ["USES", "Use", "check_engines", "check_packages", "check_python", "distribution_of"]

_OLDEST, _NEWEST = (3, 10), (3, 13)
_ALWAYS = ("numpy", "msgspec", "paho", "safetensors", "typer")
_DISTRIBUTIONS = {"PIL": "pillow", "paho": "paho-mqtt", "sklearn": "scikit-learn", "yaml": "pyyaml"}
_TORCH = "PyTorch for this machine (docs/install.md)"


class Use(NamedTuple):
    """A command, the extra of cutlayer that it needs, and the modules that tell whether that is installed."""

    command: str
    extra: str
    modules: tuple[str, ...]


USES = (
    Use("image files", "images", ("PIL",)),
    Use("updates", "updates", ("cryptography",)),
    Use("serve", "server", ("torch", "cryptography", "jinja2", "matplotlib", "PIL", "zstandard")),
    *(Use(f"export {name}", needs.export_extra, ("torch", *needs.writes_with)) for name, needs in ENGINES.items()),
    Use("flash", "flash", ("cryptography", "packaging", "tomli_w", "uv", "yaml")),
    Use("demo", "demo", ("torch", "onnxruntime", "onnxscript", "sklearn")),
)
"""What a device runs bundles with is besides: each engine is a check of its own."""


def check_python(running: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Whether cutlayer is made for this Python."""
    bits = 8 * struct.calcsize("P")
    found, span = f"{'.'.join(map(str, running))}, {bits}-bit", f"{_shown(_OLDEST)} to {_shown(_NEWEST)}"
    if running[:2] < _OLDEST:
        return Check("Python", "failed", found, f"install one of {span}")
    if running[:2] > _NEWEST:
        return Check("Python", "warning", found, f"tried are {span}; engines may not exist for it yet")
    return Check("Python", "ok", found)


def check_packages() -> list[Check]:
    """Which command lacks which packages, and the versions of all that are there."""
    wanted = dict.fromkeys((*_ALWAYS, *(module for use in USES for module in use.modules)))
    versions = {module: _version(module) for module in wanted}
    there = [_labelled(module, number) for module, number in versions.items() if number is not None]
    found = f"cutlayer {__version__}, {', '.join(there)}"
    missing = {module for module, number in versions.items() if number is None}
    if lost := [distribution_of(module) for module in _ALWAYS if module in missing]:
        own = Check("packages", "failed", found, f"install cutlayer anew: it lacks {', '.join(lost)}")
    else:
        own = Check("packages", "ok", found)
    return [*(_check_use(use, missing) for use in USES), own]


def check_engines() -> list[Check]:
    """Which engines could run bundles here."""
    return [_check_engine(name, needs) for name, needs in ENGINES.items()]


def distribution_of(module: str) -> str:
    """The package that usually brings a module."""
    return _DISTRIBUTIONS.get(module, module.replace("_", "-"))


def _check_use(use: Use, missing: set[str]) -> Check:
    lacks = [module for module in use.modules if module in missing]
    if not lacks:
        return Check(use.command, "ok", "installed")
    steps = [_TORCH] if "torch" in lacks else []
    steps += [f"pip install 'cutlayer[{use.extra}]'"] if lacks != ["torch"] else []
    return Check(use.command, "absent", f"lacks {', '.join(map(distribution_of, lacks))}", ", then ".join(steps))


def _check_engine(name: str, needs: EngineNeeds) -> Check:
    for module in needs.runtimes:
        if (number := _version(module)) is not None:
            return Check(f"engine {name}", "ok", _labelled(module, number))
    advice = f"pip install 'cutlayer[{needs.device_extra}]', for bundles of this engine"
    if name == "onnx" and struct.calcsize("P") == 4:
        advice = "there is no onnxruntime for 32-bit systems: export with --engine tflite"
    return Check(f"engine {name}", "absent", f"lacks {' or '.join(map(distribution_of, needs.runtimes))}", advice)


def _labelled(module: str, number: str) -> str:
    return f"{distribution_of(module)} {number}".strip()


def _version(module: str) -> str | None:
    """None if there is no such module; empty if its version is not known."""
    if find_spec(module) is None:
        return None
    try:
        return version(distribution_of(module))
    except PackageNotFoundError:
        others = packages_distributions().get(module)  # as onnxruntime-gpu brings onnxruntime
        return version(others[0]) if others else ""


def _shown(number: tuple[int, ...]) -> str:
    return ".".join(map(str, number))
