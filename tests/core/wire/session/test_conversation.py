import pytest

from cutlayer_core.errors import LocalProtocolError, RemoteProtocolError
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import (
    Begin,
    End,
    Gradient,
    Lacking,
    Presence,
    Shared,
    SharedRows,
    Smashed,
    Tensor,
    Weights,
)
from cutlayer_core.wire.session import TRANSITIONS, Conversation, Event, Role, State

TENSOR = Tensor("raw", {}, (1,))


def smashed(epoch=0, step=0):
    return Smashed(epoch=epoch, step=step, tensor=TENSOR, labels=b"\0\0")


def gradient(epoch=0, step=0):
    return Gradient(epoch=epoch, step=step, tensor=TENSOR, loss=0.0)


def weights(epoch=0, steps=0):
    return Weights(epoch=epoch, steps=steps, phases_s={})


@pytest.fixture
def server(assignment):
    """The server's side of a conversation whose device was given its assignment."""
    conversation = Conversation(Role.SERVER)
    conversation.said(assignment)
    return conversation


def test_every_state_has_a_row_and_every_event_a_place():
    assert set(TRANSITIONS) == set(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


def test_every_state_can_be_reached_and_the_end_is_open_from_all():
    reached = {State.NEW}
    for _ in State:
        reached |= {after for state in reached for after in TRANSITIONS[state].values()}
    assert reached == set(State)
    assert all(row[Event.END] is State.CLOSED for state, row in TRANSITIONS.items() if state is not State.CLOSED)


def test_an_epoch_of_exchange(server):
    server.said(Begin(epoch=0, mode=Mode.EXCHANGE))
    for step in range(3):
        server.heard(smashed(step=step))
        assert server.state is State.ANSWERING
        server.said(gradient(step=step))
    server.heard(weights(steps=3))
    assert server.state is State.IDLE


def test_an_epoch_of_forward_has_no_answers(server):
    server.said(Begin(epoch=0, mode=Mode.FORWARD))
    server.heard(smashed(step=0))
    server.heard(smashed(step=1))
    with pytest.raises(LocalProtocolError, match="gradient while streaming"):
        server.said(gradient(step=1))
    server.heard(weights(steps=2))


@pytest.mark.parametrize(
    ("before", "header", "reason"),
    [
        ([], smashed(), "smashed while idle"),
        ([Begin(epoch=0, mode=Mode.EXCHANGE)], smashed(step=1), "step 0.1, expected 0.0"),
        ([Begin(epoch=2, mode=Mode.EXCHANGE)], smashed(epoch=1), "step 1.0, expected 2.0"),
        ([Begin(epoch=0, mode=Mode.EXCHANGE)], weights(steps=1), "after 1 steps"),
        ([Begin(epoch=0, mode=Mode.EXCHANGE)], gradient(), "not the device's to send"),
        ([], End(reason=""), "not the device's to send"),
        ([], Presence(online=True, epoch=1), "not the device's to send"),
    ],
)
def test_a_device_that_breaks_a_rule_is_refused_and_nothing_changes(server, before, header, reason):
    for each in before:
        server.said(each)
    state = server.state
    with pytest.raises(RemoteProtocolError, match=reason):
        server.heard(header)
    assert server.state is state


def test_the_same_step_cannot_be_heard_twice(server):
    server.said(Begin(epoch=0, mode=Mode.EXCHANGE))
    server.heard(smashed(step=0))
    with pytest.raises(RemoteProtocolError, match="smashed while answering"):
        server.heard(smashed(step=0))
    server.said(gradient(step=0))
    with pytest.raises(RemoteProtocolError, match=r"step 0\.0, expected 0\.1"):
        server.heard(smashed(step=0))


def test_an_epoch_does_not_begin_twice(server):
    server.said(Begin(epoch=1, mode=Mode.EXCHANGE))
    server.heard(weights(epoch=1))
    with pytest.raises(LocalProtocolError, match="epoch 1 begins after epoch 1"):
        server.said(Begin(epoch=1, mode=Mode.EXCHANGE))


def test_a_wrong_answer_is_our_own_error(server):
    server.said(Begin(epoch=0, mode=Mode.EXCHANGE))
    server.heard(smashed(step=0))
    with pytest.raises(LocalProtocolError, match=r"gradient of step 0\.1"):
        server.said(gradient(step=1))


def test_after_the_end_nothing_is_allowed(server):
    server.said(End(reason="done"))
    with pytest.raises(RemoteProtocolError, match="allowed: nothing"):
        server.heard(smashed())


def test_a_message_to_all_is_asked_for_once_and_only_if_a_gradient_spoke_of_it(server):
    server.said(Begin(epoch=0, mode=Mode.EXCHANGE))
    server.heard(smashed())
    server.said(Gradient(epoch=0, step=0, tensor=None, loss=0.0, shared=SharedRows(7, TENSOR)))
    with pytest.raises(RemoteProtocolError, match="message 6 to all is lacking, expected 7"):
        server.heard(Lacking(number=6))
    server.heard(Lacking(number=7))
    server.said(Shared())
    with pytest.raises(RemoteProtocolError, match="expected None"):
        server.heard(Lacking(number=7))
    server.heard(smashed(step=1))
    server.said(gradient(step=1))
    with pytest.raises(RemoteProtocolError, match="expected None"):
        server.heard(Lacking(number=7))
