"""What a board makes of the server's births and wills, in whatever order the broker hands them over."""

import pytest

from cutlayer import data
from cutlayer.bundle import read_bundle
from cutlayer.errors import PeerLost
from cutlayer.messages import Presence
from cutlayer.transports import MemoryBroker
from cutlayer_device.agent import Agent, _ServerMoved, birth_of


@pytest.fixture
def agent(digits):
    bundle = read_bundle(digits / "client.bundle")
    samples = data.load(digits / "board-1.npz", bundle.manifest.client.input)
    return Agent(bundle, samples, birth_of(bundle, "demo", "board-1", 10), MemoryBroker().connect(), threads=1)


def server(epoch, *, online):
    return Presence(trial="demo", device="all", online=online, epoch=epoch)


def test_a_birth_that_comes_after_the_assignment_is_that_of_the_same_server(agent):
    agent._joined = True
    agent._meet_server(server(1, online=True))
    agent._meet_server(server(1, online=True))


def test_a_server_that_starts_anew_ends_the_boards_part(agent):
    agent._meet_server(server(1, online=True))
    agent._joined = True
    with pytest.raises(PeerLost, match="started anew"):
        agent._meet_server(server(2, online=True))


def test_before_joining_any_server_will_do(agent):
    agent._meet_server(server(1, online=True))
    agent._meet_server(server(2, online=True))


def test_the_will_of_an_earlier_server_means_nothing(agent):
    agent._meet_server(server(9, online=False))
    agent._meet_server(server(1, online=True))
    agent._meet_server(server(9, online=False))


def test_a_server_that_goes_and_comes_back_is_noticed_both_times(agent):
    agent._meet_server(server(1, online=True))
    for online in (False, True):
        with pytest.raises(_ServerMoved):
            agent._meet_server(server(1, online=online))


def test_what_the_server_does_after_the_end_does_not_matter(agent):
    agent._meet_server(server(1, online=True))
    agent._leaving = True
    agent._meet_server(server(1, online=False))
