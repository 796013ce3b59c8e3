"""Seeds of everything that is drawn in a trial."""

import numpy as np

__all__ = ["seed_of"]


def seed_of(*numbers: int) -> int:
    """A whole number from 0 to 2**31 - 1 for a sequence: of trial, client, epoch, step, purpose.

    Others have others, up to chance: two in a hundred thousand may be alike.
    """
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0]) >> 1
