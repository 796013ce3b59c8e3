"""Tests say which of the system's programs they start: `@pytest.mark.needs("mosquitto")`, or `need` in a fixture.

Where one is missing they are passed over, and the session closes with one line that says how many and why. In CI that
is a failure.
"""

import os

import pytest

from tools import install_command, missing_of

REASON = "not installed: "


def need(*names):
    """Pass the test over unless these tools are there."""
    missing = missing_of(names)
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{REASON}{', '.join(missing)} (tests/tools.py)")
    if missing:
        pytest.skip(REASON + ", ".join(missing))


def pytest_runtest_setup(item):
    need(*(name for marker in item.iter_markers("needs") for name in marker.args))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    yield  # what pytest has to say comes first
    passed_over = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())]
    wanting = [reason.removeprefix(REASON).split(", ") for reason in passed_over if reason.startswith(REASON)]
    if wanting:
        names = sorted({name for each in wanting for name in each})
        count = "1 test was" if len(wanting) == 1 else f"{len(wanting)} tests were"
        command = " ".join(install_command(names))
        terminalreporter.write_line(f"{count} not run, for want of {', '.join(names)}: {command}", yellow=True)
