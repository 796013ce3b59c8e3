"""A short campaign of mutated inputs and a long one; `campaign.py` runs others."""

import pytest

from fuzz.campaign import campaign


@pytest.mark.parametrize(("inputs", "seed"), [(30_000, 1), pytest.param(10_000_000, 2, marks=pytest.mark.long)])
def test_what_others_wrote_is_taken_or_refused_by_name(tmp_path, digits, inputs, seed):
    assert campaign(tmp_path, digits / "client.bundle", digits / "trial.toml", inputs, seed) >= inputs
