"""Trains the client with torch and with the exported graphs, step by step."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.bundles.certificate import TOLERANCE
from cutlayer_cut import clip, torch_optimizer
from cutlayer_export.certificate.batches import cut_gradient, samples
from cutlayer_export.certificate.distance import Drifts, Errors, errors_of, floor_of
from cutlayer_export.certificate.references import References, Tensors
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Arrays, Graphs

__all__ = ["Comparison", "require"]

DRAWS = 6
_NUDGES = (1.0, 1.0, 4.0, 16.0)
_MORE_NUDGES = 16
"""How many more are tried, of the greatest size, before an error counts as none of rounding: each lets the value that
decides go the other way in less than half of all cases."""


class _Tried(NamedTuple):
    """One step on one draw of data: results of the graphs, those of torch in float64, and several of float32."""

    outputs: Arrays
    wanted: Tensors
    rough: list[Tensors]

    def noise(self) -> Errors:
        """For each tensor, the least value to divide errors by, by the greatest error that torch itself made."""
        return {name: max(floor_of(each[name], value) for each in self.rough) for name, value in self.wanted.items()}

    def rounding_decides(self) -> bool:
        """Whether torch itself is too far from itself, in float32 or with data that are off by rounding."""
        found = ({name: value.numpy() for name, value in each.items()} for each in self.rough)
        return any(max(errors_of(each, self.wanted).values()) > TOLERANCE for each in found)


class Comparison:
    """The client in torch and as graphs, both from their initial values on.

    Args:
        references: the user's model.
        client: describes the client-side half, which trains.
        values: initial values by graph input name.
        graphs: the exported graphs.
    """

    def __init__(self, references: References, client: Client, values: Arrays, graphs: Graphs) -> None:
        assert client.optimizer is not None
        assert graphs.forward is not None
        assert graphs.backward is not None
        self._client, self._settings = client, client.optimizer
        self._exact, self._single = references.exact, references.single
        self._exact.reset()
        self._params = self._exact.parameters(client.params)
        self._optimizer = torch_optimizer(self._params.values(), client.optimizer)
        self._forward, self._backward = graphs.forward, graphs.backward
        self._kept = {name: value.copy() for name, value in values.items()}
        self.redrawn = 0
        """How many draws were given up, since rounding decided them."""

    def run(self, batch: int, steps: int) -> Errors:
        """Train on batches of one size, and return the greatest error of each tensor.

        Raises:
            CertificateError: a step differs, and not by rounding; the text names the tensor.
        """
        errors: Errors = {}
        for step in range(1, steps + 1):
            found = self._step(batch, step)
            state = self._state_errors()
            if max(found.values()) <= TOLERANCE:  # else a wrong gradient may have led to it
                require(state, batch)
            for name, error in (found | state).items():
                errors[name] = max(errors.get(name, 0.0), error)
        return errors

    def _step(self, batch: int, step: int) -> Errors:
        before = {name: value.detach().clone() for name, value in self._moving().items()}
        noise, drifts = Errors(), Drifts()
        for draw in range(DRAWS):
            self._exact.assign(before)
            tried, errors = self._try(batch, step, 1000 * batch + 20 * step + draw)
            if max(errors.values()) <= TOLERANCE:
                break
            self.redrawn += 1
            noise = {name: max(floor, noise.get(name, 0.0)) for name, floor in tried.noise().items()}
            drifts.add(tried.outputs, tried.rough[1], tried.wanted)
        else:
            errors = errors_of(tried.outputs, tried.wanted, noise)
            errors = {name: max(error, drifts.excess(name)) for name, error in errors.items()}
        self._advance(tried.outputs)
        return errors

    def _try(self, batch: int, step: int, seed: int) -> tuple[_Tried, Errors]:
        """Run one step on the data of ``seed``; raises `CertificateError` if it is too far off for no reason."""
        x = samples(self._client.input, batch, seed, alike=step % 2 == 0)
        g = cut_gradient(self._client, batch, seed)
        before = {name: value.detach().clone() for name, value in self._moving().items()}
        wanted = self._exact.differentiate(x, g, seed, self._params)
        outputs = self._outputs(x, g, step, seed)
        errors = errors_of(outputs, wanted)
        if max(errors.values()) <= TOLERANCE:
            return _Tried(outputs, wanted, []), errors
        self._single.assign(before)
        tried = _Tried(outputs, wanted, [self._single.differentiate(x, g, seed, self._params)])
        nudges = (*_NUDGES, *[max(_NUDGES)] * _MORE_NUDGES)
        for number, factor in enumerate(nudges, start=1):
            self._single.assign(before)
            tried.rough.append(self._single.nudged(x, g, seed + number, self._params, factor))
            if number >= len(_NUDGES) and tried.rounding_decides():
                return tried, errors
        require(errors, batch)
        return tried, errors

    def _outputs(self, x: Tensor, g: Tensor, step: int, seed: int) -> Arrays:
        rate = np.float32(self._settings.learning_rate)
        offered = {"x": x.numpy(), "seed": np.asarray(seed, np.int64)}  # a board has no more when it computes forward
        outputs = self._forward({**self._kept, **offered})
        offered |= {"g": g.numpy(), "learning_rate": np.asarray(rate), "step": np.asarray(step, np.int64)}
        return outputs | self._backward({**self._kept, **offered, **outputs})

    def _advance(self, outputs: Arrays) -> None:
        """Make the graphs' new values the current ones, and step torch's optimizer with the graphs' gradients."""
        self._kept |= {name.removeprefix("new_"): value for name, value in outputs.items() if name.startswith("new_")}
        for name, parameter in self._params.items():
            parameter.grad = torch.from_numpy(outputs[f"gradients.{name}"]).to(parameter.dtype)
        clip(self._params.values(), self._settings)
        self._optimizer.step()

    def _moving(self) -> Tensors:
        """What training changes in the model in float64."""
        own = self._exact.tensors()
        return {name: own[name] for name in (*self._client.params, *self._client.buffers)}

    def _state_errors(self) -> Errors:
        own = self._moving()
        wanted = {f"params.{name}": own[name] for name in self._client.params}
        wanted |= {f"buffers.{name}": own[name] for name in self._client.buffers}
        moments = {"momentum": "momentum_buffer", "mean": "exp_avg", "variance": "exp_avg_sq"}
        for key in self._kept:
            kind, _, rest = key.partition(".")
            moment, _, name = rest.partition(".")
            if kind == "state":
                wanted[key] = self._optimizer.state[self._params[name]][moments[moment]]
        return errors_of(self._kept, wanted)


def require(errors: Errors, batch: int) -> None:
    """Raise `CertificateError` unless all errors are within the tolerance."""
    name, worst = max(errors.items(), key=lambda item: item[1])
    if not worst <= TOLERANCE:
        raise CertificateError(
            f"{name} differs from torch by {worst:.1e} in a batch of {batch}, more than {TOLERANCE:.0e} allowed"
        )
