"""Many simulated devices in one process: real sessions and real connections, and no model."""

import selectors
import time

import numpy as np
import paho.mqtt.client as paho

from cutlayer_core.wire import topics
from cutlayer_core.wire.messages import (
    Assignment,
    Begin,
    End,
    Gradient,
    Keep,
    Kept,
    Message,
    Presence,
    Settle,
    Settled,
    Smashed,
    Tensor,
    Weights,
    decode,
    encode,
)
from cutlayer_core.wire.presence import new_epoch
from cutlayer_core.wire.session import Role, Session
from cutlayer_core.wire.transports.mqtt import _tune_socket

__all__ = ["Fleet", "Loop"]


class Loop:
    """paho clients without a thread each: one selector serves them all."""

    def __init__(self):
        self._selector = selectors.DefaultSelector()
        self._clients = {}
        self._swept = 0.0

    def connect(self, port, name, on_message):
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        client.on_socket_open = _tune_socket
        client.on_message = lambda _client, _data, message: on_message(message)
        client.connect("127.0.0.1", port, keepalive=60)
        self._clients[client.socket()] = client
        self._selector.register(client.socket(), selectors.EVENT_READ, client)
        while not client.is_connected():
            self.turn(0.1)
        return client

    def turn(self, timeout_s):
        """Let every client read and write what it can."""
        for key, _ in self._selector.select(timeout_s):
            key.data.loop_read()
        now = time.monotonic()
        if now > self._swept + 5.0:
            self._swept = now
            for client in self._clients.values():
                client.loop_misc()

    @staticmethod
    def publish(client, topic, payload):
        client.publish(topic, payload, qos=0)
        while client.want_write() and client.loop_write() == paho.MQTT_ERR_SUCCESS:
            pass


class _Device:
    """One simulated board: it answers the server as a board does, with the same payload each time."""

    def __init__(self, loop, port, trial, name, fingerprint, tensor, payload, steps):
        self._loop, self._trial, self._name, self._steps = loop, trial, name, steps
        self._tensor, self._payload = tensor, payload
        self._labels = np.zeros(tensor.shape[0], "<u2").tobytes()
        self._birth = Presence(
            trial=trial,
            device=name,
            online=True,
            epoch=new_epoch(),
            samples=steps * tensor.shape[0],
            bundle=fingerprint,
        )
        self.session, self.over, self.round_trips = None, False, []
        self._epoch = self._step = 0
        self._sent_at = 0.0
        self._weights = b""
        self._client = loop.connect(port, f"simulated-{name}", self._take)
        self._client.subscribe([(topics.down(trial, name), 0), (topics.control(trial), 1)])

    def _take(self, message):
        if message.topic == topics.control(self._trial):
            self._meet(decode(message.payload).header)
            return
        if self.session is None:
            return
        self.session.receive(message.payload, time.monotonic())
        while (event := self.session.next_event()) is not None:
            self._answer(event)
        self.flush()

    def _meet(self, server):
        if server.online and self.session is None:
            epoch = self._birth.epoch
            self.session = Session(Role.DEVICE, self._trial, self._name, epoch, server.epoch ^ epoch)
            birth = Presence(**{**_fields(self._birth), "server": server.epoch})
            self._client.publish(topics.state(self._trial, self._name), encode(Message(birth)), qos=1, retain=True)
            self._client.loop_write()

    def _answer(self, event):
        match event.header:
            case Assignment():
                pass
            case Keep():
                self.session.send(Message(Kept()))
            case Settle():
                self.session.send(Message(Settled()))
            case Begin(epoch=epoch):
                self._epoch, self._step, self._weights = epoch, 0, event.payload
                self._smash()
            case Gradient():
                self.round_trips.append(time.monotonic() - self._sent_at)
                if self._step < self._steps:
                    self._smash()
                else:
                    end = Weights(epoch=self._epoch, steps=self._step, phases_s={})
                    self.session.send(Message(end, self._weights))
            case End():
                self.over = True

    def _smash(self):
        header = Smashed(epoch=self._epoch, step=self._step, tensor=self._tensor, labels=self._labels)
        self.session.send(Message(header, self._payload))
        self._sent_at, self._step = time.monotonic(), self._step + 1

    def flush(self):
        for frame in self.session.frames_to_send(time.monotonic()) if self.session else ():
            self._loop.publish(self._client, topics.up(self._trial, self._name), frame)


def _fields(presence):
    return {name: getattr(presence, name) for name in presence.__struct_fields__}


class Fleet:
    """So many devices; `run` returns the round trips of all, in seconds, when the server has ended the trial."""

    def __init__(self, port, trial, names, fingerprint, codec, shape, steps):
        values = np.abs(np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
        payload, params = codec.encode(values)[:2]
        tensor = Tensor(codec.id, params, shape)
        self._loop = Loop()
        self._devices = [
            _Device(self._loop, port, trial, name, fingerprint, tensor, bytes(payload), steps) for name in names
        ]

    def run(self):
        repeated_at = time.monotonic()
        while not all(device.over for device in self._devices):
            self._loop.turn(0.2)
            if time.monotonic() > repeated_at + 0.5:
                repeated_at = time.monotonic()
                for device in self._devices:
                    device.flush()
        time.sleep(0.05)  # acknowledgements of the end wait for no answer any longer
        for device in self._devices:
            device.flush()
        return [trip for device in self._devices for trip in device.round_trips]
