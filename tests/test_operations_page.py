"""docs/operations.md says what is registered, and which of the functions in the table are refused."""

import importlib.util
import re
from pathlib import Path

from operations import OPERATIONS, REFUSED

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def test_the_page_lists_what_is_registered():
    spec = importlib.util.spec_from_file_location("benchmark_of_operations", ROOT / "benchmarks" / "operations.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert PAGE.endswith("\n".join(script.registered()) + "\n"), "write it anew: see benchmarks/operations.py"


def test_the_page_has_every_function_and_says_which_are_refused():
    rows = dict(re.findall(r"^\| (.+) \| (\S+ \| \S+) \|$", PAGE, re.MULTILINE))
    assert [name for name in rows if name != "function"] == list(OPERATIONS)
    for at, engine in enumerate(("onnx", "tflite")):
        assert {name for name, found in rows.items() if found.split(" | ")[at] == "refused"} == REFUSED[engine], engine
