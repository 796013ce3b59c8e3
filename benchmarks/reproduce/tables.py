"""The tables: which data each has, and how they are dealt out. The rows are the trial files of a table's folder."""

from pathlib import Path
from typing import NamedTuple

TRIALS = Path(__file__).parent / "trials"
RESULTS = Path(__file__).parents[1] / "results" / "reproduce"


class Table(NamedTuple):
    """One table.

    Attributes:
        title: what it shows.
        dataset: "mnist" or "cifar10".
        samples: training samples over all devices.
        test: test samples.
        deal: "iid", "dirichlet" or "shards".
        pretraining: training samples that no device has, for a client that is pre-trained.
        validates: whether the "test" samples are a part of the training set that no device has.
    """

    title: str
    dataset: str
    samples: int
    test: int
    deal: str = "iid"
    pretraining: int = 0
    validates: bool = False


TABLES = {
    "mnist": Table("Codecs against each other", "mnist", 12_000, 10_000),
    "async": Table("Loss-gated training with FP8", "cifar10", 10_000, 2_000),
    "async-dirichlet": Table("Loss-gated training with FP8, Dirichlet(0.3)", "cifar10", 10_000, 2_000, "dirichlet"),
    "async-shards": Table("Loss-gated training with FP8, 5 shards a client", "cifar10", 10_000, 2_000, "shards"),
    "epsl": Table("Last-layer gradient aggregation over phi", "cifar10", 10_000, 2_000),
    "ecofed": Table("A pre-trained, frozen client with replay", "cifar10", 10_000, 2_000, pretraining=20_000),
    "combined": Table("Schedule x codec, on a validation split", "cifar10", 10_000, 2_000, validates=True),
}


def rows(table: str) -> list[Path]:
    """The trial files of a table."""
    return sorted((TRIALS / table).glob("*.toml"))
