"""When a chunk without an acknowledgement is sent again."""

__all__ = ["RetransmissionTimer"]

_SHORTEST_S = 1.0
_LONGEST_S = 60.0


class RetransmissionTimer:
    """Follows the round trip as TCP does (RFC 6298).

    The timeout is four times the longest round trip seen lately. It doubles each time that it expires, and shrinks only
    when a chunk that was sent once is acknowledged (Karn's rule), so that a link that is merely slow is not filled with
    copies.
    """

    def __init__(self) -> None:
        self.timeout_s = _SHORTEST_S
        self._round_trip_s = 0.0
        self._since = 0.0

    def restart(self, now: float) -> None:
        """Restart the timer: something was sent, or acknowledged."""
        self._since = now

    @property
    def expires_at(self) -> float:
        """When the oldest chunk in flight is to be sent again."""
        return self._since + self.timeout_s

    def back_off(self) -> None:
        """Lengthen the timeout: it expired."""
        self.timeout_s = min(2 * self.timeout_s, _LONGEST_S)

    def measure(self, round_trip_s: float) -> None:
        """Take in the round trip of a chunk that was sent only once."""
        self._round_trip_s += 0.125 * (round_trip_s - self._round_trip_s)
        longest = max(self._round_trip_s, round_trip_s)
        self.timeout_s = min(max(_SHORTEST_S, 4 * longest), _LONGEST_S)
