"""Which arrangement of a bundle's graphs is the fastest on this board, by measurement; what was found is kept.

Arrangements differ in how they compute convolutions, and compute the same but for rounding, so a device may change from
one to another at any step.
"""

import hashlib
import logging
from pathlib import Path

import msgspec

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.errors import UserError
from cutlayer_core.files import replace_file
from cutlayer_device.engines import Engine, load_engine
from cutlayer_profiles.machine import machine_name
from cutlayer_profiles.meters import Root

__all__ = ["OWN", "Tuned", "Tuning", "fingerprint_of"]

OWN = "own"
"""The arrangement that the export chose by an estimate."""
_LEAST_GAIN = 1.02
"""Another arrangement has to be faster by this much than the bundle's own: less is noise."""
_log = logging.getLogger(__name__)


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was found for one bundle and number of threads."""

    graphs: str
    """SHA-256 of all files of the bundle."""
    machine: str
    runtime: str
    threads: int
    batch_size: int
    step_ms: dict[str, float]
    """Median time of a step, forward and backward, by arrangement."""

    @property
    def choice(self) -> str:
        """The fastest arrangement, `OWN` if the others gain next to nothing."""
        best = min(self.step_ms, key=self.step_ms.__getitem__)
        return best if self.step_ms[best] * _LEAST_GAIN < self.step_ms[OWN] else OWN


class Tuning:
    """Keeps what was measured, in a file of a device's state; counts for the same bundle, machine, runtime and threads.

    Args:
        folder: the folder for what the board needs to go on, which `cutlayer device run` is given as --state.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tuning.json"

    def keep(self, found: Tuned) -> None:
        """Keep it, in place of what was found before for this bundle and number of threads."""
        others = [each for each in self._all() if (each.graphs, each.threads) != (found.graphs, found.threads)]
        replace_file(self.path, msgspec.json.format(msgspec.json.encode([*others, found])) + b"\n")

    def engine(self, bundle: Bundle, threads: int) -> tuple[Engine, str]:
        """The engine with the arrangement that was chosen here, and what is to be said of it; empty for the bundle's own."""
        engine = load_engine(bundle, threads)
        graphs = fingerprint_of(bundle)
        found = next((each for each in self._all() if (each.graphs, each.threads) == (graphs, threads)), None)
        if found is None or found.choice == OWN:
            return engine, ""
        if (found.machine, found.runtime) != (machine_name(Root()), engine.runtime):
            _log.warning("tuned on %s with %s: run `cutlayer device tune` again", found.machine, found.runtime)
            return engine, ""
        chosen = load_engine(bundle.arranged(found.choice), threads)
        return chosen, f"arrangement {found.choice}: {_gain(found)}"

    def _all(self) -> list[Tuned]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Tuned])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"{self.path}: cannot be read; delete it, and run `cutlayer device tune` again") from error


def _gain(found: Tuned) -> str:
    return f"{found.step_ms[found.choice]:.2f} ms a step instead of {found.step_ms[OWN]:.2f}, as measured"


def fingerprint_of(bundle: Bundle) -> str:
    """SHA-256 of all files of a bundle."""
    return hashlib.sha256(msgspec.json.encode(bundle.manifest.files, order="sorted")).hexdigest()
