"""One participation of a board in a trial, with one process of the server: join, train when told to, leave."""

import logging
import time

from cutlayer_core.record.phases import Phases
from cutlayer_core.wire.messages import Assignment, Begin, End, Keep, Kept, Presence, Settle, Settled
from cutlayer_core.wire.transports import Transport
from cutlayer_device.training.board import Board
from cutlayer_device.training.board_state import BoardState
from cutlayer_device.training.local_pass import LocalPass
from cutlayer_device.training.server_link import RunIsOver, ServerLink

__all__ = ["Participation"]

_log = logging.getLogger(__name__)


class Participation:
    """Takes part from a birth to the end of the trial, or of the server's process.

    Args:
        board: trains.
        birth: a new one for each participation.
        transport: connected, with the last will that belongs to ``birth``.
    """

    def __init__(self, board: Board, birth: Presence, transport: Transport) -> None:
        self._board, self._trial = board, birth.trial
        self._server = ServerLink(birth, transport, board.states)
        self._state = BoardState(board)
        self._phases = Phases(time.monotonic, board.profiler.mark if board.profiler else _mark_nothing)

    def run(self) -> str:
        """Take part until the trial ends; returns the server's reason. Raises as `Agent.run`, and `PeerStartedAnew`."""
        try:
            self._server.join()
            return self._take_part()
        except RunIsOver as over:
            self._board.states.clear()
            return str(over)
        finally:
            self._server.leave()

    def _take_part(self) -> str:
        assignment: Assignment | None = None
        while True:
            message = self._server.hear()
            match message.header:
                case Assignment() as assignment:
                    self._take_up(assignment)
                case Keep(position=position):
                    self._state.keep(position)
                    self._server.say(Kept())
                case Settle(idle_s=idle_s):
                    if (end := self._settle(idle_s)) is not None:
                        return self._server.end(end)
                case Begin() as begin if assignment is not None:
                    LocalPass(self._board, self._state, self._server, self._phases, assignment, begin).run(
                        message.payload
                    )
                case End() as end:
                    return self._server.end(end)

    def _take_up(self, assignment: Assignment) -> None:
        """Join, from the state that the server names."""
        self._state.take_up(assignment)
        self._server.obey(assignment.patience_s, rejoins=assignment.rejoins)
        restore = assignment.restore
        if self._board.profiler is not None and restore is None:
            self._board.profiler.report()  # discard the time spent waiting for a server
        where = "" if restore is None else f", after step {restore.steps} of epoch {restore.epoch + 1}"
        _log.info("joined the trial %r as client %d%s", self._trial, assignment.client, where)

    def _settle(self, idle_s: float) -> End | None:
        """Report usage, then idle for ``idle_s`` and report that; returns the end of the trial if it comes first."""
        profiler = self._board.profiler
        usage = profiler.report() if profiler else None
        ends = time.monotonic() + idle_s
        while (left := ends - time.monotonic()) > 0:
            if (message := self._server.listen(left)) is not None:
                assert isinstance(message.header, End), "the session lets nothing else through"
                return message.header
        idle = profiler.report() if profiler and idle_s else None
        self._server.say(Settled(usage=usage, idle=idle))
        return None


def _mark_nothing(phase: str, began_s: float, ended_s: float) -> None:
    """Do nothing: there is no profiler."""
