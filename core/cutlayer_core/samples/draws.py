"""Seeds for everything random in a trial."""

import numpy as np

__all__ = ["seed_of"]


def seed_of(*numbers: int) -> int:
    """A seed from 0 to 2**31 - 1 for a sequence of numbers, such as trial, client, epoch, step, purpose.

    Different sequences have different seeds, up to chance: among a hundred thousand, two may be alike.
    """
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0]) >> 1
