"""What a user sees when something ends a command: one line, an exit status, and never a traceback."""

import re
from pathlib import Path

import pytest

from cutlayer_core import crash_report
from cutlayer_core.console import exit_status
from cutlayer_core.errors import CutlayerError, UserError


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("the file is gone"), 2), (CutlayerError("gave up"), 1), (OSError("disk full"), 1)]
)
def test_an_error_that_we_know_is_one_line(capsys, error, status):
    with pytest.raises(SystemExit) as ended, exit_status():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == f"cutlayer: {error}\n"


def test_a_mistake_of_ours_asks_for_a_report_that_lies_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(crash_report.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended, exit_status():
        raise KeyError("getitem_1")
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("cutlayer: a mistake in cutlayer, not in what you typed: KeyError: 'getitem_1'\n")
    report = Path(re.search(r"report it with (\S+)", printed)[1]).read_text()
    assert "Traceback" not in printed
    assert "KeyError: 'getitem_1'" in report
    assert "numpy " in report


def test_without_a_place_for_the_report_the_line_says_where_it_happened(capsys, monkeypatch):
    monkeypatch.setattr(crash_report.tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(SystemExit), exit_status():
        raise KeyError("x")
    assert re.search(r"report it with \S+test_console\.py:\d+", capsys.readouterr().err)
