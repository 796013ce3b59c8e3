"""docs/results.md says what the lines under benchmarks/results/reproduce say, and nothing else; its trial files can be run."""

import subprocess
import sys
from pathlib import Path

from cutlayer_core.trial.trial import read_trial
from cutlayer_cut import build_model

REPRODUCE = Path(__file__).parents[1] / "benchmarks" / "reproduce"


def test_the_page_of_results_is_made_of_the_results():
    command = [sys.executable, str(REPRODUCE / "page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_row_is_a_trial_of_a_model_that_can_be_built():
    trials = [read_trial(path) for path in sorted(REPRODUCE.glob("trials/*/*.toml"))]
    assert len({trial.name for trial in trials}) == len(trials)
    models = {(trial.model.factory, str(trial.model.kwargs)): trial for trial in trials if not trial.model.weights}
    for trial in models.values():
        assert dict(build_model(trial.model, 1).named_modules())[trial.model.cut]
