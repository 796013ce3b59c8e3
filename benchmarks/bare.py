"""Two bare paho clients that send payloads back and forth: what a server of ours is measured beside."""

import time
from statistics import median

import paho.mqtt.client as paho

from cutlayer_core.wire.transports.mqtt import _tune_socket

__all__ = ["bare_devices", "bare_server"]


def bare_client(port, name, topic, on_message):
    """paho as its users run it, with the socket options that every client here has."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
    client.on_socket_open = _tune_socket
    client.on_message = lambda _client, _data, message: on_message(message.payload)
    client.on_connect = lambda *_: client.subscribe(topic, 0)
    client.connect("127.0.0.1", port)
    return client


def bare_server(port):
    """Sends back what it gets, until an empty packet comes."""

    def answer(payload):
        if payload:
            client.publish("bare/down", payload)
        else:
            client.disconnect()

    client = bare_client(port, "bare-server", "bare/up", answer)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.loop_forever()
    return {}


def bare_devices(port, payload_bytes, in_flight, seconds):
    """Requests, so many under way at a time. Returns round trips, seconds and their median in milliseconds."""
    payload, sent, trips = bytes(payload_bytes), [], []

    def answered(_payload):
        trips.append(time.perf_counter() - sent.pop(0))
        ask()

    def ask():
        sent.append(time.perf_counter())
        client.publish("bare/up", payload)

    client = bare_client(port, "bare-devices", "bare/down", answered)
    client.loop_start()
    time.sleep(0.5)
    for _ in range(in_flight):
        ask()
    time.sleep(0.5)
    began, before = time.perf_counter(), len(trips)
    time.sleep(seconds)
    spent, made = time.perf_counter() - began, len(trips) - before
    client.publish("bare/up", b"", qos=1).wait_for_publish(5.0)
    client.disconnect()
    client.loop_stop()
    return {"trips": made, "seconds": spent, "p50_ms": 1e3 * median(trips)}
