"""The tables: which data each has, and how they are dealt out. The rows are the trial files of a table's folder."""

from pathlib import Path
from typing import NamedTuple

TRIALS = Path(__file__).parent / "trials"
RESULTS = Path(__file__).parents[1] / "results" / "reproduce"


FEDAVG = "fedavg"
"""A row that is no trial: the whole model on the clients, with the settings of the table's vanilla row."""


class Table(NamedTuple):
    """One table.

    Attributes:
        title: what it shows.
        dataset: "mnist" or "cifar10".
        samples: training samples over all devices.
        test: test samples.
        deal: "iid", "dirichlet" or "shards".
        pretraining: training samples that no device has, for a client that is pre-trained.
        fedavg: whether there is such a row.
        validates: whether the "test" samples are a part of the training set that no device has.
        plotted: whether its accuracies can be compared with those of the data set's other tables.
    """

    title: str
    dataset: str
    samples: int
    test: int
    deal: str = "iid"
    pretraining: int = 0
    validates: bool = False
    fedavg: bool = False
    plotted: bool = True


TABLES = {
    "mnist": Table("Codecs against each other", "mnist", 12_000, 10_000),
    "async": Table("Loss-gated training with FP8", "cifar10", 10_000, 5_000),
    "async-dirichlet": Table("Loss-gated training with FP8, Dirichlet(0.3)", "cifar10", 10_000, 5_000, "dirichlet"),
    "async-shards": Table("Loss-gated training with FP8, 5 shards a client", "cifar10", 10_000, 5_000, "shards"),
    "epsl": Table("Last-layer gradient aggregation over phi", "cifar10", 10_000, 5_000),
    "ecofed": Table(
        "A pre-trained, frozen client with replay", "cifar10", 10_000, 5_000, pretraining=20_000, fedavg=True
    ),
    "combined": Table(
        "Schedule x codec x frozen or trainable, on a validation split",
        "cifar10",
        10_000,
        5_000,
        pretraining=20_000,
        validates=True,
        plotted=False,
    ),
    "combined-test": Table("What was chosen, on the test set", "cifar10", 10_000, 5_000, pretraining=20_000),
    "resnet18": Table("Loss-gated training with FP8, ResNet18", "cifar10", 10_000, 5_000, plotted=False),
    "full-vgg11": Table("Loss-gated training with FP8, VGG11 of full size", "cifar10", 50_000, 10_000, plotted=False),
    "full-resnet18": Table(
        "Loss-gated training with FP8, ResNet18 of full size", "cifar10", 10_000, 5_000, plotted=False
    ),
}


def rows(table: str) -> list[Path]:
    """The trial files of a table; that of `FEDAVG` does not exist."""
    return sorted((TRIALS / table).glob("*.toml")) + [TRIALS / table / f"{FEDAVG}.toml"] * TABLES[table].fedavg
