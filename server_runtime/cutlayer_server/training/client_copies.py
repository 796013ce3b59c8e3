"""Which client weights each device has, so that none is sent weights that it already has."""

from cutlayer_core.wire.weights import encode_weights
from cutlayer_server.model.averaging import Arrays

__all__ = ["ClientCopies"]


class ClientCopies:
    """The client weights on the devices, as far as this process knows. Weights are compared by identity."""

    def __init__(self) -> None:
        self._held: dict[str, Arrays] = {}
        self._encoded: tuple[Arrays, bytes] = ({}, b"")
        """The weights sent last, and their encoding: all devices may begin with the same."""

    def of(self, device: str, otherwise: Arrays) -> Arrays:
        """The weights that a device has; ``otherwise`` if it is not known to have any."""
        return self._held.get(device, otherwise)

    def hand_over(self, device: str, weights: Arrays, *, has_them: bool) -> bytes:
        """What to send so that a device has these weights: nothing, if it is known or said to have them already."""
        sent = b""
        if not has_them and self._held.get(device) is not weights:
            if self._encoded[0] is not weights:
                self._encoded = weights, encode_weights(weights)
            sent = self._encoded[1]
        self._held[device] = weights
        return sent

    def return_from(self, device: str, weights: Arrays) -> None:
        """Note the weights to which a device has trained its own."""
        self._held[device] = weights

    def forget(self, device: str) -> None:
        """Forget what a device has: its next process has none of it."""
        self._held.pop(device, None)
