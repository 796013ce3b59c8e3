"""Both ends of a session over a network that loses, repeats, reorders and delays, in simulated time."""

import heapq
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Begin, End, Gradient, Keep, Kept, Message, Position, Smashed, Tensor, Weights
from cutlayer_core.wire.session import Role, Session, State

EPOCHS, STEPS, LONGEST_S = 2, 3, 200_000.0
TENSOR = Tensor("raw", {}, (1,))


class Network:
    """Frames on their way, by the time of their arrival."""

    def __init__(self, rng, loss, repeat, delay_s):
        self._rng, self._loss, self._repeat, self._delay_s = rng, loss, repeat, delay_s
        self._frames, self._count = [], 0

    def carry(self, to, frames, now):
        for frame in frames:
            for _ in range(2 if self._rng.random() < self._repeat else 1):
                if self._rng.random() >= self._loss:
                    self._count += 1  # each takes a time of its own, so frames overtake each other
                    due = now + self._rng.uniform(0.001, self._delay_s)
                    heapq.heappush(self._frames, (due, self._count, to, frame))

    @property
    def next_arrival(self):
        return self._frames[0][0] if self._frames else float("inf")

    def arrived(self, now):
        while self._frames and self._frames[0][0] <= now:
            _, _, to, frame = heapq.heappop(self._frames)
            yield to, frame


def server_says(heard, size):
    """The server's side of a short training, step by step."""
    match heard.header if heard else None:
        case None:
            return [Message(Begin(epoch=0, mode=Mode.EXCHANGE), bytes(size))]
        case Smashed(epoch=epoch, step=step):
            return [Message(Gradient(epoch=epoch, step=step, tensor=TENSOR, loss=0.0), bytes(size // 2))]
        case Weights(epoch=epoch, steps=steps):
            return [Message(Keep(position=Position(epoch, steps)))]
        case Kept():
            return []
    raise AssertionError(heard)


def device_says(heard, size):
    match heard.header:
        case Begin(epoch=epoch):
            return [Message(Smashed(epoch=epoch, step=0, tensor=TENSOR, labels=b""), bytes(size))]
        case Gradient(epoch=epoch, step=step) if step + 1 < STEPS:
            return [Message(Smashed(epoch=epoch, step=step + 1, tensor=TENSOR, labels=b""), bytes(size))]
        case Gradient(epoch=epoch):
            return [Message(Weights(epoch=epoch, steps=STEPS, phases_s={}), bytes(size))]
        case Keep():
            return [Message(Kept())]
    return []


def converse(assignment, seed, loss, repeat, delay_s, size):
    """Run both ends to their end; returns what each heard."""
    rng, now, epoch = random.Random(seed), 0.0, 0
    network = Network(rng, loss, repeat, delay_s)
    ends = {Role.SERVER: Session(Role.SERVER, "t", "a", 1, 2), Role.DEVICE: Session(Role.DEVICE, "t", "a", 2, 1)}
    heard = {role: [] for role in Role}
    for message in (Message(assignment), *server_says(None, size)):
        ends[Role.SERVER].send(message)
    while not (ends[Role.DEVICE].state is State.CLOSED and all(end.idle for end in ends.values())):
        assert now < LONGEST_S, "the conversation does not end"
        for role, end in ends.items():
            network.carry(role.peer, end.frames_to_send(now), now)
            while (message := end.next_event()) is not None:
                heard[role].append(message.header)
                replies = (server_says if role is Role.SERVER else device_says)(message, size)
                if role is Role.SERVER and isinstance(message.header, Kept):
                    epoch += 1
                    last = Message(End(reason="done"))
                    replies = (
                        [Message(Begin(epoch=epoch, mode=Mode.EXCHANGE), bytes(size))] if epoch < EPOCHS else [last]
                    )
                for reply in replies:
                    end.send(reply)
            network.carry(role.peer, end.frames_to_send(now), now)
        deadlines = [each for end in ends.values() if (each := end.next_deadline()) is not None]
        now = max(now + 1e-4, min([network.next_arrival, *deadlines]))
        for role, frame in network.arrived(now):
            ends[role].receive(frame, now)
    return heard


def check(assignment, seed, loss, repeat, delay_s, size):
    heard = converse(assignment, seed, loss, repeat, delay_s, size)
    device = [(type(each).__name__, getattr(each, "step", None)) for each in heard[Role.DEVICE]]
    epoch = [("Begin", None), *(("Gradient", step) for step in range(STEPS)), ("Keep", None)]
    assert device == [("Assignment", None), *epoch * EPOCHS, ("End", None)]
    server = [(type(each).__name__, getattr(each, "step", None)) for each in heard[Role.SERVER]]
    assert server == [*(("Smashed", step) for step in range(STEPS)), ("Weights", None), ("Kept", None)] * EPOCHS


RUNS = given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    repeat=st.sampled_from([0.0, 0.1, 0.5]),
    delay_s=st.sampled_from([0.002, 0.05, 2.0, 30.0]),
    size=st.sampled_from([4, 5_000, 250_000]),
)
CHECKED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@RUNS
@settings(max_examples=200, **CHECKED)
def test_every_message_arrives_once_and_in_order(assignment, seed, loss, repeat, delay_s, size):
    check(assignment, seed, loss, repeat, delay_s, size)


@pytest.mark.slow
@RUNS
@settings(max_examples=10_000, **CHECKED)
def test_every_message_arrives_once_and_in_order_ten_thousand_times(assignment, seed, loss, repeat, delay_s, size):
    check(assignment, seed, loss, repeat, delay_s, size)
