"""How devices take turns in an epoch, and how their client weights are combined: one function per aggregation."""

from collections.abc import Callable

from cutlayer_core.trial.aggregation import Aggregation, Epsl, Parallel, Sequential, SplitFed
from cutlayer_server.model.averaging import average
from cutlayer_server.training.epoch import ClientWeights, EpochProgress
from cutlayer_server.training.turns import Turns

__all__ = ["run_epoch"]


def run_epoch(aggregation: Aggregation, turns: Turns, progress: EpochProgress) -> ClientWeights:
    """Run the rest of an epoch over all devices; returns the client weights that it ends with."""
    return _EPOCHS[type(aggregation)](turns, progress)


def _sequential(turns: Turns, progress: EpochProgress) -> ClientWeights:
    """Each device passes over its samples and hands its client weights to the next."""
    weights = progress.weights.common
    for device in turns.devices:
        if device in turns.passing:
            turns.begin(device, weights)
        while device in turns.passing:
            turns.turn([device])
        weights = progress.returned.get(device, weights)
    return ClientWeights(weights)


def _splitfed(turns: Turns, progress: EpochProgress) -> ClientWeights:
    _side_by_side(turns, progress)
    if not progress.returned:  # all were lost
        return progress.weights
    returned = {device: progress.returned[device] for device in sorted(progress.returned)}
    return ClientWeights(average(returned, progress.samples))


def _parallel(turns: Turns, progress: EpochProgress) -> ClientWeights:
    _side_by_side(turns, progress)
    return ClientWeights(progress.weights.common, {**progress.weights.own, **progress.returned})


def _side_by_side(turns: Turns, progress: EpochProgress) -> None:
    """All devices pass over their samples at the same time; the server takes a batch from each in turn.

    Taking turns makes the order of the server's updates, hence the result, independent of which device is faster.
    """
    for device in turns.passing:
        turns.begin(device, progress.weights.of(device))
    while devices := turns.passing:
        turns.turn(devices)


_EPOCHS: dict[type, Callable[[Turns, EpochProgress], ClientWeights]] = {
    Sequential: _sequential,
    SplitFed: _splitfed,
    Parallel: _parallel,
    Epsl: _parallel,
}
