"""The data of a table as files: a share for each device, and a test set."""

import sys
from pathlib import Path

import numpy as np
from tables import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from images import Dataset, Images, cifar10, deal, mnist

SPLIT_SEED = 1
"""Of which samples a table has, and who has which: the same in every run, so that seeds differ in training alone."""


def prepare(table: Table, devices: list[str], source: Path, cache: Path) -> Path:
    """A folder with ``<device>.npz``, ``test.npz`` and, if wanted, ``pretraining.npz``; made if it is not there."""
    held = f"{'validation' if table.validates else 'test'}-{table.test}-pretraining-{table.pretraining}"
    folder = cache / f"{table.dataset}-{table.samples}-{table.deal}-{len(devices)}-{held}"
    if not (folder / "test.npz").exists():  # which is written last
        folder.mkdir(parents=True, exist_ok=True)
        whole = load(table, source, cache)
        order = np.random.default_rng(SPLIT_SEED).permutation(len(whole.train.y))
        train = whole.train.take(order[: table.samples])
        for device, places in zip(devices, deal(train.y, len(devices), table.deal, SPLIT_SEED), strict=True):
            train.take(places).save(folder / f"{device}.npz")
        if table.pretraining:
            whole.train.take(order[-table.pretraining :]).save(folder / "pretraining.npz")
        held_out(table, whole, order).save(folder / "test.npz")
    return folder


def load(table: Table, source: Path, cache: Path) -> Dataset:
    return mnist(source) if table.dataset == "mnist" else cifar10(source, cache)


def held_out(table: Table, whole: Dataset, order: np.ndarray) -> Images:
    """From the test set; or, to choose settings by, from training samples that no device has."""
    if table.validates:
        return whole.train.take(order[table.samples : table.samples + table.test])
    return whole.test.take(np.random.default_rng(SPLIT_SEED).permutation(len(whole.test.y))[: table.test])
