"""The trial file: everything that decides what a trial does, read once into frozen structs."""

import math
from pathlib import Path
from typing import Annotated

import msgspec

from cutlayer_core.codecs import Codecs
from cutlayer_core.errors import UserError
from cutlayer_core.schedules import Every, Schedule
from cutlayer_core.trial import toml
from cutlayer_core.trial.aggregation import Aggregation, Epsl, Parallel, Sequential
from cutlayer_core.trial.optimizers import Optimizer, Sgd
from cutlayer_core.trial.recipe import WHOLE, Model, Recipe
from cutlayer_core.wire.messages import Augmentation
from cutlayer_core.wire.topics import UPDATES, check_name

__all__ = ["Broker", "Data", "Model", "Optimizers", "Seeds", "Trial", "read_trial"]

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; keys that are not named here are an error."""


class Data(_Table, frozen=True):
    """``[data]``: how samples are prepared on both sides, and where the server's test set is."""

    test: str
    """An ``.npz``, or a folder with one sub-folder of images per class; relative to the trial file."""
    batch_size: _AtLeastOne = 32
    mean: tuple[float, ...] = (0.0,)
    """Subtracted from samples scaled to 0..1: one number, or one per channel."""
    std: tuple[float, ...] = (1.0,)
    """What samples are divided by, after ``mean`` was subtracted."""
    classes: tuple[str, ...] = ()
    """For folders of images: names of the sub-folders, in the order of the model's outputs."""
    augmentation: Augmentation = Augmentation()


class Optimizers(_Table, frozen=True):
    """``[optimizer.client]`` runs on the board, ``[optimizer.server]`` on the server."""

    client: Optimizer
    server: Optimizer


class Seeds(_Table, frozen=True):
    """``[seeds]``: equal seeds give equal runs."""

    weights: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 1
    """Initial weights of both the client-side and the server-side model."""
    data: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 1
    """Order and augmentation of the training samples."""


class Broker(_Table, frozen=True):
    """``[broker]``: where the server finds the MQTT broker."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    tls: str = ""
    """A folder with the server's certificate, as `cutlayer certs` makes it, relative to the trial file."""


class Trial(_Table, frozen=True):
    """A whole trial file."""

    name: str
    devices: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Names of the boards; training visits them in this order."""
    epochs: _AtLeastOne
    model: Model
    data: Data
    optimizer: Optimizers
    codec: Codecs = Codecs()
    schedule: Schedule = Every()
    aggregation: Aggregation = Sequential()
    seeds: Seeds = Seeds()
    broker: Broker = Broker()
    target_accuracy: _Share | None = None
    """Stop early once the test accuracy reaches this share."""
    clients_per_round: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many devices take part in each epoch, drawn by seed; 0: all."""
    min_devices: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many devices training needs to begin and to go on; the others join at the next epoch. 0: all."""
    patience_s: _Seconds = 60.0
    """How long a silent peer is waited for before it counts as lost."""
    checkpoint_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How often both sides save to disk what they need to resume after a crash; 0: after every turn."""
    idle_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0
    """How long devices idle before the first pass and after the last, so that a meter shows what they draw when
    idle."""

    @property
    def recipe(self) -> Recipe:
        """What an export needs of this trial."""
        data = self.data
        return Recipe(
            name=self.name,
            model=self.model,
            optimizer=self.optimizer.client,
            mean=data.mean,
            std=data.std,
            classes=data.classes,
            seed=self.seeds.weights,
        )


def read_trial(path: Path) -> Trial:
    """Read and check a trial file.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    trial = toml.read(path, Trial)
    try:
        check_name(trial.name, "name:")
        for device in trial.devices:
            check_name(device, "devices:")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for problem in _problems(trial):
        raise UserError(f"{path}: {problem}")
    if trial.model.weights:
        model = msgspec.structs.replace(trial.model, weights=str(path.parent / trial.model.weights))
        trial = msgspec.structs.replace(trial, model=model)
    if trial.broker.tls:
        broker = msgspec.structs.replace(trial.broker, tls=str(path.parent / trial.broker.tls))
        trial = msgspec.structs.replace(trial, broker=broker)
    return trial


def _problems(trial: Trial) -> list[str]:
    """Values that are each allowed but make no sense together."""
    found = [*_data_problems(trial), *_optimizer_problems(trial)]
    if len(set(trial.devices)) < len(trial.devices):
        found.append(f"devices: found {list(trial.devices)}, allowed: different names")
    if trial.name == UPDATES:
        found.append(f"name: found {UPDATES!r}, allowed: any other; under this one updates of devices travel")
    if trial.min_devices > len(trial.devices):
        found.append(f"min_devices: found {trial.min_devices}, allowed: up to {len(trial.devices)}, one a device")
    if trial.clients_per_round > len(trial.devices):
        found.append(f"clients_per_round: found {trial.clients_per_round}, allowed: up to {len(trial.devices)} devices")
    found += trial.model.problems()
    if trial.model.cut == WHOLE:
        found.append("model.cut: found 'none', allowed: a module's name; a whole model can be exported, not trained")
    if trial.model.trainable == "none" and trial.schedule.exchanges:
        found.append(
            f"schedule.id: found {_id(trial.schedule)!r}, allowed: 'forward', 'replay', for model.trainable 'none', "
            "since a frozen client has no use for cut gradients"
        )
    found += _aggregation_problems(trial)
    if not math.isfinite(trial.patience_s):
        found.append("patience_s: found inf, allowed: a finite number")
    return found


def _aggregation_problems(trial: Trial) -> list[str]:
    """Choices of schedule that make no sense with the aggregation."""
    found: list[str] = []
    alone = isinstance(trial.aggregation, Parallel | Epsl)
    if trial.schedule.per_client and not alone:
        found.append(
            f"schedule.per: found 'client', allowed: 'trial', for aggregation {_id(trial.aggregation)!r}: it changes the "
            "client weights that another device's kept smashed data belong to"
        )
    if isinstance(trial.aggregation, Epsl) and trial.aggregation.phi and not trial.schedule.exchanges:
        found.append(
            f"aggregation.phi: found {trial.aggregation.phi}, allowed: 0, for schedule {_id(trial.schedule)!r}: there are no "
            "cut gradients to share"
        )
    return found


def _id(choice: msgspec.Struct) -> str:
    return str(choice.__struct_config__.tag)


def _data_problems(trial: Trial) -> list[str]:
    shape, data, channels = trial.model.input_shape, trial.data, trial.model.input_shape[0]
    found: list[str] = []
    for key, values in (("mean", data.mean), ("std", data.std)):
        if len(values) not in (1, channels):
            found.append(f"data.{key}: found {len(values)} numbers, allowed: 1, or {channels} for {channels} channels")
        if not all(map(math.isfinite, values)):
            found.append(f"data.{key}: found {list(values)}, allowed: finite numbers")
    if 0.0 in data.std:
        found.append("data.std: found 0, allowed: any other number")
    if (data.augmentation.flip or data.augmentation.crop) and len(shape) != 3:
        found.append(f"data.augmentation: found flip or crop for samples of shape {shape}, allowed: for images only")
    return found


def _optimizer_problems(trial: Trial) -> list[str]:
    found: list[str] = []
    for side, optimizer in (("client", trial.optimizer.client), ("server", trial.optimizer.server)):
        if isinstance(optimizer, Sgd) and optimizer.nesterov and optimizer.momentum == 0.0:
            found.append(f"optimizer.{side}.nesterov: found true with momentum 0, allowed: with a momentum above 0")
        numbers = (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm or 0.0)
        if not all(map(math.isfinite, numbers)):
            found.append(f"optimizer.{side}: found an infinite number, allowed: finite ones")
    return found
