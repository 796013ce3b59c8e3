"""How long a board waits for its broker."""

from contextlib import closing

import pytest

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import TransportError
from cutlayer_core.samples import data
from cutlayer_device.training.agent import Agent, birth_of
from cutlayer_device.training.states import States


@pytest.mark.parametrize(("run", "wait_s"), [(0, 3.0), (7, float("inf"))])
def test_a_board_that_died_in_a_run_waits_for_the_broker_as_long_as_it_takes(digits, tmp_path, run, wait_s):
    bundle = read_bundle(digits / "client.bundle")
    samples = data.load(digits / "board-1.npz", bundle.manifest.client.input)
    waited = []

    def connect(_will, wait_s):
        waited.append(wait_s)
        raise TransportError("no broker")

    with closing(States(tmp_path, "abc")) as states:
        if run:
            states.enter(run, None)
        birth = birth_of(bundle, "demo", "board-1", 10)
        with pytest.raises(TransportError):
            Agent(bundle, samples, birth, connect, states, threads=1, first_wait_s=3.0).run()
    assert waited == [wait_s]
