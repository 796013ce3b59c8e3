"""docs/results.md says what the lines under benchmarks/results/reproduce say, and nothing else."""

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "benchmarks" / "reproduce" / "page.py"


def test_the_page_of_results_is_made_of_the_results():
    done = subprocess.run([sys.executable, str(PAGE), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
