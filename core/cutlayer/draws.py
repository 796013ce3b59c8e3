"""Seeds of everything that is drawn in a trial."""

import numpy as np

__all__ = ["seed_of"]


def seed_of(*numbers: int) -> int:
    """A whole number from 0 to 2**31 - 1, another one for every other sequence: of trial, client, epoch, step, purpose."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1
