"""A short campaign for CI and a long one; `campaign.py` runs others."""

import pytest

from chaos.campaign import campaign

pytestmark = [
    pytest.mark.needs("mosquitto"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # processes that were killed on purpose
]


@pytest.mark.parametrize(
    ("faults", "seed"),
    [
        pytest.param(16, 3, marks=[pytest.mark.slow, pytest.mark.alone]),
        pytest.param(220, 4, marks=pytest.mark.long),
    ],
)
def test_a_trial_that_is_broken_in_every_way_ends_as_if_nothing_had_happened(tmp_path, faults, seed):
    assert campaign(tmp_path, faults, seed).total() == faults
