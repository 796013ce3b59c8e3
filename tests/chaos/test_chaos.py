"""A short campaign; `campaign.py` runs longer ones."""

import pytest

from chaos.campaign import campaign


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.needs("mosquitto")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # processes that were killed on purpose
def test_a_trial_that_is_broken_in_every_way_ends_as_if_nothing_had_happened(tmp_path):
    assert campaign(tmp_path, faults=16, seed=3).total() == 16
