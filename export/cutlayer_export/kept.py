"""Exports that are kept: what the same recipe, code and packages gave before is not exported again.

An export takes seconds to minutes, and runs of one recipe are many. The recipe, the form, the versions of Python and of
all packages, and the working folder decide where a kept export is looked for; it counts if every file that it was made
from (`sources`) still has the same content.
"""

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from cutlayer_core.bundles.bundle import Bundle, Manifest, check_place, read_bundle
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import Recipe
from cutlayer_export.graph.form import FLOAT32_ONNX, Form
from cutlayer_export.sources import Sources, packages, unchanged

__all__ = ["Done", "KeptExports", "export_once"]

_BUNDLE, _SOURCES = "bundle", "sources.json"
_MOST_BYTES = 4 << 30


class Done(NamedTuple):
    """A bundle that was written, and whether it is one that was exported before."""

    manifest: Manifest
    reused: bool


def export_once(
    recipe: Recipe,
    path: Path,
    sources: Sources,
    tell: Callable[[str], None] = lambda stage: None,
    form: Form = FLOAT32_ONNX,
    *,
    fresh: bool = False,
) -> Done:
    """Write the bundle that was exported before from the same; if there is none, or if ``fresh``, export it.

    Args:
        recipe: names the model to export.
        path: where to write the bundle.
        sources: hears what the model is made from; it has heard everything of the user's that ran before, too.
        tell: called at the beginning of each stage, with a line about it.
        form: how the graphs are written.
        fresh: whether to export again what was exported before.

    Raises:
        CutlayerError: as `export_bundle` does.
    """
    kept = KeptExports()
    check_place(path)
    known = None if fresh else kept.find(recipe, form)
    if known is not None:
        return Done(known.write(path), reused=True)
    tell("importing torch")
    with sources:
        from cutlayer_export.export import export_bundle

        manifest = export_bundle(recipe, path, tell, form)
    found = sources.found(also=[recipe.model.weights])
    if found is not None:
        kept.keep(recipe, form, read_bundle(path), found)
    return Done(manifest, reused=False)


class KeptExports:
    """A folder of exports, a folder each; those used longest ago go when there are too many.

    Args:
        folder: by default in the user's cache folder, see https://specifications.freedesktop.org/basedir-spec.
        most_bytes: that they may take up together.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = _MOST_BYTES) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder, self._most_bytes = folder or cache / "cutlayer" / "exports", most_bytes

    def find(self, recipe: Recipe, form: Form) -> Bundle | None:
        """The export of this recipe in this form; None if there is none, or what it was made from has changed."""
        place = self._folder / _key(recipe, form)
        try:
            if not unchanged(msgspec.json.decode((place / _SOURCES).read_bytes(), type=dict[str, str])):
                return None
            bundle = read_bundle(place / _BUNDLE)
            os.utime(place)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, UserError):
            return None  # whatever is wrong with it, it is exported again
        return bundle

    def keep(self, recipe: Recipe, form: Form, bundle: Bundle, sources: dict[str, str]) -> None:
        """Keep an export. A disk that is full or cannot be written to is no error: nothing is kept then."""
        place = self._folder / _key(recipe, form)
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._folder) as made:
                bundle.write(Path(made) / place.name / _BUNDLE)
                (Path(made) / place.name / _SOURCES).write_bytes(msgspec.json.encode(sources))
                shutil.rmtree(place, ignore_errors=True)
                (Path(made) / place.name).rename(place)
            self._prune()

    def _prune(self) -> None:
        places = sorted(self._folder.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        total = 0
        for place in places:
            total += sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
            if total > self._most_bytes:
                shutil.rmtree(place, ignore_errors=True)


def _key(recipe: Recipe, form: Form) -> str:
    arrays = [
        None if each is None else hashlib.sha256(each.tobytes()).hexdigest() for each in (form.samples, form.labels)
    ]
    facts = [recipe, form.engine, form.target, form.precision, form.max_error, form.arrangements, arrays]
    facts += [sys.version, platform.machine(), packages(), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:32]
