"""Printing of classified samples."""

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranking"]


class Ranking:
    """Prints the likeliest classes of each sample, and counts correct ones where the truth is known.

    Args:
        classes: names of the classes; if there are none, numbers are printed.
        top: how many to print.
        as_json: print one JSON object per line.
    """

    def __init__(self, classes: tuple[str, ...], top: int, as_json: bool) -> None:
        self._classes, self._top, self._as_json = classes, top, as_json
        self._known = self._right = 0

    def show(self, name: str, probabilities: NDArray[np.float32], truth: int | None) -> None:
        """Print one sample with its probabilities (classes,)."""
        best = [int(each) for each in np.argsort(-probabilities, kind="stable")[: self._top]]
        if truth is not None:
            self._known, self._right = self._known + 1, self._right + (best[0] == truth)
        if self._as_json:
            ranked = [{"class": self._name(each), "probability": round(float(probabilities[each]), 6)} for each in best]
            print(msgspec.json.encode({"input": name, "top": ranked}).decode())
        else:
            print(f"{name}  " + "  ".join(f"{self._name(each)} {probabilities[each]:.1%}" for each in best))

    def close(self) -> None:
        """Print the share of correct ones, if any truth was known."""
        if not self._known:
            return
        share = self._right / self._known
        if self._as_json:
            print(msgspec.json.encode({"samples": self._known, "accuracy": round(share, 6)}).decode())
        else:
            print(f"{self._right:,} of {self._known:,} right ({share:.1%})")

    def _name(self, number: int) -> str:
        name = self._classes[number] if number < len(self._classes) else str(number)
        return name if name.isprintable() else repr(name)  # a bundle must not write to the terminal as it likes
