"""Which operations train on a board: the page docs/operations.md, from what is registered and from what is tried.

    python benchmarks/operations.py --page docs/operations.md

Every function of tests/operations.py stands between a layer that is trained and the smashed data, and is certified
against torch's autograd on both engines.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from clients import certified
from cutlayer_core.errors import CutlayerError
from cutlayer_export.graph.decompositions import OURS
from cutlayer_export.graph.draws import Draws
from cutlayer_export.graph.form import Form
from cutlayer_export.graph.substitutes import SUBSTITUTES
from cutlayer_export.onnx.operators import TRANSLATIONS
from cutlayer_export.tflite.lowering import RULES
from operations import OPERATIONS

ENGINES = ("onnx", "tflite")


def names(operations: Iterable[Any]) -> str:
    """Their names, sorted, without overloads, in one paragraph."""
    found = {each.name().split("::")[-1].split(".")[0] for each in operations if hasattr(each, "overloadpacket")}
    return ", ".join(f"`{each}`" for each in sorted(found))


def registered() -> list[str]:
    """What is registered, as paragraphs."""
    functions = {each.__name__ for each in SUBSTITUTES if not hasattr(each, "overloadpacket")}
    return [
        "## What is registered",
        "",
        "**Written in other functions of torch before the gradient is taken**, for both engines: "
        + ", ".join(f"`{each}`" for each in sorted(functions)) + ".",
        "",
        f"**Drawn by seed**, for both engines: {names(Draws().table())}.",
        "",
        f"**Taken apart while a model is traced**, for both engines: {names(OURS)}, and what torch's own core decompositions take apart.",
        "",
        f"**TFLite** has a rule for: {names(RULES)}.",
        "",
        f"**ONNX** has all that torch's own exporter translates, and: {names(TRANSLATIONS)}.",
    ]  # fmt: skip


def tried(name: str, engine: str) -> str:
    """The greatest error of a function on an engine, or that it is refused."""
    operation = OPERATIONS[name]
    try:
        return f"{certified(operation.model(), operation.spec, form=Form(engine)).worst:.0e}"
    except CutlayerError:
        return "refused"


def page() -> str:
    """The whole page."""
    lines = [
        "# Operations",
        "",
        "Written by [`benchmarks/operations.py`](../benchmarks/operations.py). A client may have any of these between its layers. The numbers are the",
        "greatest relative errors of smashed data, gradients and weights against torch's autograd, as in a certificate. What is refused is refused by",
        "name when a model is exported. Layers, losses and whole models are in the other tests; [models](models.md) has those that others wrote.",
        "",
        "| function | ONNX | TFLite |",
        "|---|---|---|",
    ]  # fmt: skip
    for name in OPERATIONS:
        found = [tried(name, engine) for engine in ENGINES]
        print(name, *found, flush=True)
        lines.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join([*lines, "", *registered()]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    options.page.write_text(page())


if __name__ == "__main__":
    main()
