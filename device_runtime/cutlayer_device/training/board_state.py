"""The state of training on the board: in the engine's memory, and on disk."""

from cutlayer_core.codecs import NOTHING, Arrays
from cutlayer_core.errors import MessageError
from cutlayer_core.wire.messages import Assignment, Position
from cutlayer_device.engines import EngineState
from cutlayer_device.training.board import Board

__all__ = ["BoardState"]


class BoardState:
    """What changes from step to step.

    Invariant: the codec's memory and the engine's arrays belong to the same step, and are kept together.

    Args:
        board: owns the engine and the disk.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self.memory: Arrays = NOTHING
        """What the codec keeps from step to step."""

    def take_up(self, assignment: Assignment) -> None:
        """Resume from the state that the server names, or begin.

        Raises:
            MessageError: the codecs do not fit this client.
            RemoteProtocolError: the state is not held.
            UserError: it was damaged.
        """
        bundle, engine, states = self._board.bundle, self._board.engine, self._board.states
        batch = (assignment.batch_size, *bundle.manifest.client.smashed.shape)
        if problem := assignment.codecs.problem(batch):
            raise MessageError(f"the server assigns codecs that this client's smashed data do not fit: {problem}")
        restore = assignment.restore
        states.enter(assignment.run, restore)
        state = EngineState(bundle.arrays(), 0) if restore is None else states.read(restore, engine.state())
        engine.restore(state)
        self.memory = state.memory

    def keep(self, position: Position) -> None:
        """Save the present state to disk. Raises `OSError` if that is full."""
        state = self._board.engine.state()
        self._board.states.keep(position, state._replace(memory=dict(self.memory)))
