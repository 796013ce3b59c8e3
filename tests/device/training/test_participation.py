"""What a board makes of the server's births and wills, in whatever order the broker hands them over."""

from contextlib import closing

import pytest

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import PeerStartedAnew
from cutlayer_core.samples import data
from cutlayer_core.wire import topics
from cutlayer_core.wire.messages import Message, Presence, decode, encode
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_device.engines import load_engine
from cutlayer_device.training.agent import birth_of
from cutlayer_device.training.board import Board
from cutlayer_device.training.participation import Participation
from cutlayer_device.training.server_link import ServerMoved
from cutlayer_device.training.states import States


@pytest.fixture
def broker():
    return MemoryBroker()


@pytest.fixture
def part(digits, tmp_path, broker):
    bundle = read_bundle(digits / "client.bundle")
    samples = data.load(digits / "board-1.npz", bundle.manifest.client.input)
    with closing(States(tmp_path, "abc")) as states:
        board = Board(bundle, load_engine(bundle, 1), samples, states)
        yield Participation(board, birth_of(bundle, "demo", "board-1", 10), broker.connect())


def server(epoch, *, online):
    return Presence(trial="demo", device="all", online=online, epoch=epoch)


def test_a_server_is_answered_once_with_its_own_number(part, broker):
    watcher, state = broker.connect(), topics.state("demo", "board-1")
    watcher.subscribe(state)
    part._server._endpoint.claim(state, part._server._birth)
    assert decode(watcher.receive(1.0).payload).header.server == 0
    part._server.meet(server(7, online=True))
    part._server.meet(server(7, online=True))
    assert decode(watcher.receive(1.0).payload).header.server == 7
    assert watcher.receive(0.0) is None


def test_a_server_that_starts_anew_ends_the_participation(part):
    part._server.meet(server(1, online=True))
    with pytest.raises(PeerStartedAnew, match="the server started anew"):
        part._server.meet(server(2, online=True))


def test_the_will_of_an_earlier_server_means_nothing(part):
    part._server.meet(server(9, online=False))
    part._server.meet(server(1, online=True))
    part._server.meet(server(9, online=False))


def test_a_server_that_goes_and_comes_back_is_noticed_both_times(part):
    part._server.meet(server(1, online=True))
    for online in (False, True):
        with pytest.raises(ServerMoved):
            part._server.meet(server(1, online=online))


def test_who_missed_the_end_of_its_run_learns_it_from_the_farewell(part, broker):
    part._board.states.enter(7, None)
    farewell = Presence(trial="demo", device="all", online=False, epoch=3, run=7, over="all 3 epochs are done")
    broker.connect().publish_retained(topics.control("demo"), encode(Message(farewell)))
    assert part.run() == "all 3 epochs are done"
    assert part._board.states.run == 0


def test_the_end_of_another_run_means_nothing(part):
    part._server.meet(Presence(trial="demo", device="all", online=False, epoch=3, run=7, over="done"))


def test_what_the_server_does_after_the_end_does_not_matter(part):
    part._server.meet(server(1, online=True))
    part._server._leaving = True
    part._server.meet(server(1, online=False))


def test_a_server_that_answers_queries_is_not_joined_and_nothing_is_forgotten(part, caplog):
    part._board.states.enter(7, None)
    part._server.meet(Presence(trial="demo", device="all", online=True, epoch=3, serves=True))
    assert part._server._server is None
    assert part._board.states.run == 7
    assert "answers queries; waiting for one that trains" in caplog.text
