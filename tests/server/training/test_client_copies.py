"""No device is sent client weights that it has already."""

import numpy as np

from cutlayer_core.wire.weights import decode_weights
from cutlayer_server.training.client_copies import ClientCopies


def weights(value):
    return {"w": np.full(3, value, np.float32)}


def test_weights_are_sent_once_to_each_device():
    copies, common = ClientCopies(), weights(1)
    first, second = (copies.hand_over(name, common, has_them=False) for name in "ab")
    assert first is second, "they are encoded once"
    np.testing.assert_array_equal(decode_weights(first, like=common)["w"], common["w"])
    assert copies.hand_over("a", common, has_them=False) == b""


def test_equal_weights_that_are_not_the_same_travel():
    copies = ClientCopies()
    copies.hand_over("a", weights(1), has_them=False)
    assert copies.hand_over("a", weights(1), has_them=False)


def test_a_device_that_has_them_from_its_own_state_is_sent_none():
    copies, common = ClientCopies(), weights(1)
    assert copies.hand_over("a", common, has_them=True) == b""
    assert copies.of("a", weights(2)) is common


def test_what_a_device_trained_is_what_it_has():
    copies, trained = ClientCopies(), weights(3)
    copies.hand_over("a", weights(1), has_them=False)
    copies.return_from("a", trained)
    assert copies.hand_over("a", trained, has_them=False) == b""


def test_a_new_process_of_a_device_has_nothing():
    copies, common = ClientCopies(), weights(1)
    copies.hand_over("a", common, has_them=False)
    copies.forget("a")
    assert copies.of("a", common) is common
    assert copies.hand_over("a", common, has_them=False)
