"""The certificate: how far the exported graphs, run by the stock runtime, are from torch.

The exported graphs and torch both train the same client-side model for ``STEPS`` steps, with the same random batches,
cut gradients and dropout seeds. Torch computes in float64, so that the error of the export is measured and not torch's.

* In every step, smashed data and gradients are compared with those of torch autograd.
* After the last step, parameters, buffers and optimizer state are compared with those of torch.optim, which is given
  the exported graph's gradients: an optimizer such as Adam would blow rounding noise in a gradient up to a whole step.

The error of a tensor is the greatest absolute difference divided by the greatest absolute value of torch's tensor, or
by a hundredth of the greatest value of any tensor of its kind if that is more: a gradient that is zero but for rounding
is all noise. For the same reason an error passes that is at most four times the one that torch itself makes in float32,
compared with float64.

Where the input of a ReLU is zero up to rounding, or two entries tie for a maximum, rounding decides which way it goes,
and that shifts gradients by whole entries. A step with too large an error is therefore repeated with other data, up to
``DRAWS`` times; a mistake in a graph shows in every draw. Large models have such a place in every batch. If all draws
fail, the errors of the last one are therefore compared with the greatest error that torch itself made in any draw, with
the data as they are and nudged by a few units in the last place. That error may be a hundredth of a gradient, so
mistakes of such a size have to be found in another way: rounding has no direction, but a mistake has. In the mean of
all draws, a gradient may be too long by at most four times torch's own share, plus a thousandth.
"""

import copy
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cutlayer_core.bundles.bundle import TOLERANCE, Certificate, Client
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_cut import clip, examples, mode, torch_optimizer, training
from cutlayer_export.graph.draws import SeededDraws
from cutlayer_export.graph.form import Arrays, Graphs, Run

__all__ = ["CertificateError", "certify"]

Errors = dict[str, float]
STEPS = 5
BATCH_SIZES = (2, 5, 8)
DRAWS = 6
_NOISE = 0.01
_DRIFT = 1e-3
_NUDGE = 2.0**-21
"""Four units in the last place of float32."""


class CertificateError(CutlayerError):
    """The exported client does not compute what torch computes."""


def certify(module: nn.Module, trainable: str, client: Client, values: Arrays, graphs: Graphs) -> Certificate:
    """Compare the exported graphs with torch, at each of ``BATCH_SIZES``.

    Args:
        module: the client-side half.
        trainable: as in `cutlayer_cut.client_state`.
        client: its description.
        values: initial values by graph input name.
        graphs: the exported graphs.

    Raises:
        CertificateError: an error exceeds the tolerance; the text names the tensor.
    """
    errors: Errors = {}
    references = _References(module)
    for batch in BATCH_SIZES:
        found = {"inference.z": _inference_error(references, client, values, graphs.inference, batch)}
        if client.optimizer is not None:
            found |= _Comparison(references, trainable, client, values, graphs).run(batch)
        errors = {name: max(errors.get(name, 0.0), error) for name, error in found.items()}
    name, worst = max(errors.items(), key=lambda item: item[1])
    if not worst <= TOLERANCE:
        raise CertificateError(f"{name} differs from torch by {worst:.1e}, more than {TOLERANCE:.0e} allowed")
    return Certificate(steps=STEPS, batch_sizes=BATCH_SIZES, errors=errors)


class _References:
    """Copies of the client: ``exact`` in float64 where its code allows that, and ``single`` in float32."""

    def __init__(self, module: nn.Module) -> None:
        try:
            self.single, double = copy.deepcopy(module), copy.deepcopy(module).double()
        except RuntimeError as error:  # torch.nn.utils.weight_norm holds a tensor that cannot be copied
            reason = str(error).split("\n", 1)[0]
            raise UserError(f"the part before the cut cannot be copied: {reason}") from error
        self.exact = double

    def without_double(self) -> None:
        """Use float32 for ``exact`` too: code that asks for float32 cannot run in float64."""
        self.exact = copy.deepcopy(self.single)

    def copies(self) -> tuple[nn.Module, nn.Module]:
        """Fresh copies of both."""
        return copy.deepcopy(self.exact), copy.deepcopy(self.single)


def _inference_error(references: _References, client: Client, values: Arrays, run: Run, batch: int) -> float:
    x = examples(client.input, batch, seed=batch)
    try:
        wanted = _infer(references.exact, x)
    except RuntimeError:
        references.without_double()
        wanted = _infer(references.exact, x)
    return _error(run({**values, "x": x.numpy()})["z"], wanted, _floor(_infer(references.single, x), wanted))


def _infer(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), mode(module, training=False), sdpa_kernel(SDPBackend.MATH):
        z: Tensor = module(_cast(x, module))
    return z


class _Comparison:
    """Trains the client with torch and with the exported graphs, step by step."""

    def __init__(self, references: _References, trainable: str, client: Client, values: Arrays, graphs: Graphs) -> None:
        assert client.optimizer is not None
        assert graphs.forward is not None
        assert graphs.backward is not None
        self._client, self._settings, self._trainable = client, client.optimizer, trainable
        self._reference, self._single = references.copies()
        parameters = dict(self._reference.named_parameters())
        self._params = {name: parameters[name] for name in client.params}
        self._optimizer = torch_optimizer(self._params.values(), client.optimizer)
        self._forward, self._backward = graphs.forward, graphs.backward
        self._kept = {name: value.copy() for name, value in values.items()}

    def run(self, batch: int) -> Errors:
        """Run all steps, and return the greatest error of each tensor."""
        errors: Errors = {}
        for step in range(1, STEPS + 1):
            for name, error in self._step(batch, step).items():
                errors[name] = max(errors.get(name, 0.0), error)
        return errors | self._state_errors()

    def _step(self, batch: int, step: int) -> Errors:
        buffers = copy.deepcopy(dict(self._reference.named_buffers()))
        noise_of_all, drifts = dict[str, float](), _Drifts()
        for draw in range(DRAWS):
            with torch.no_grad():
                for name, value in self._reference.named_buffers():
                    value.copy_(buffers[name])
            seed = 1000 * batch + 20 * step + draw
            outputs, wanted, noise = self._try(batch, step, seed)
            errors = _errors(outputs, wanted)
            if max(errors.values()) <= TOLERANCE:
                break
            rough = self._nudged(batch, seed)
            nudged = {name: _floor(rough[name], value) for name, value in wanted.items()}
            noise_of_all = {name: max(noise[name], nudged[name], noise_of_all.get(name, 0.0)) for name in noise}
            drifts.add(outputs, rough, wanted)
        else:
            errors = _errors(outputs, wanted, noise_of_all)
            errors = {name: max(error, drifts.excess(name)) for name, error in errors.items()}
        self._kept |= {name.removeprefix("new_"): value for name, value in outputs.items() if name.startswith("new_")}
        for name, parameter in self._params.items():
            parameter.grad = torch.from_numpy(outputs[f"gradients.{name}"]).to(parameter.dtype)
        clip(self._params.values(), self._settings)
        self._optimizer.step()
        return errors

    def _try(self, batch: int, step: int, seed: int) -> tuple[Arrays, dict[str, Tensor], dict[str, float]]:
        """Run one step on the data of ``seed``: the outputs of the graphs, those of torch, and torch's own error."""
        x, g = self._data(batch, seed)
        with torch.no_grad():
            for ours, exact in zip(_tensors(self._single), _tensors(self._reference), strict=True):
                ours.copy_(exact)
        rough = self._differentiate(self._single, x, g, seed)
        wanted = self._differentiate(self._reference, x, g, seed)
        rate = np.float32(self._settings.learning_rate)
        offered = {"x": x.numpy(), "g": g.numpy(), "learning_rate": np.asarray(rate)}
        offered |= {"step": np.asarray(step, np.int64), "seed": np.asarray(seed, np.int64)}
        outputs = self._forward({**self._kept, **offered})
        outputs |= self._backward({**self._kept, **offered, **outputs})
        return outputs, wanted, {name: _floor(rough[name], value) for name, value in wanted.items()}

    def _data(self, batch: int, seed: int) -> tuple[Tensor, Tensor]:
        """Samples and a cut gradient."""
        g = torch.randn(batch, *self._client.smashed.shape, generator=torch.Generator().manual_seed(seed))
        # Scaled like the gradient of a mean loss; training diverges with larger ones.
        return examples(self._client.input, batch, seed), g / (batch * prod(self._client.smashed.shape) ** 0.5)

    def _nudged(self, batch: int, seed: int) -> dict[str, Tensor]:
        """Torch's results in float32 for samples that are off by rounding, as tensors between layers of a graph are."""
        x, g = self._data(batch, seed)
        nudges = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * _NUDGE
        return self._differentiate(self._single, x * (1 + nudges) if x.is_floating_point() else x, g, seed)

    def _differentiate(self, module: nn.Module, x: Tensor, g: Tensor, seed: int) -> dict[str, Tensor]:
        """Torch's smashed data and gradients, under the names of the graphs' outputs."""
        params = dict(module.named_parameters())
        chosen = [params[name] for name in self._params]
        with training(module, self._trainable), SeededDraws(seed), sdpa_kernel(SDPBackend.MATH):
            z = module(_cast(x, module))
            gradients = torch.autograd.grad(z, chosen, g.to(z.dtype))
        return {"z": z, **{f"gradients.{name}": each for name, each in zip(self._params, gradients, strict=True)}}

    def _state_errors(self) -> Errors:
        wanted: dict[str, Tensor] = {f"params.{name}": value for name, value in self._params.items()}
        buffers = dict(self._reference.named_buffers())
        wanted |= {f"buffers.{name}": buffers[name] for name in self._client.buffers}
        moments = {"momentum": "momentum_buffer", "mean": "exp_avg", "variance": "exp_avg_sq"}
        for key in self._kept:
            kind, _, rest = key.partition(".")
            moment, _, name = rest.partition(".")
            if kind == "state":
                wanted[key] = self._optimizer.state[self._params[name]][moments[moment]]
        return _errors(self._kept, wanted)


class _Drifts:
    """The share by which each tensor is longer than torch's in float64, for each draw."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {}
        self._own: dict[str, list[float]] = {}

    def add(self, found: Arrays, rough: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
        """Add a draw: what a graph gave, what torch gave in float32, and what torch gave in float64."""
        for name, value in wanted.items():
            exact = value.detach().double()
            squared = float((exact * exact).sum()) or 1.0
            for drifts, other in ((self._found, torch.from_numpy(found[name])), (self._own, rough[name].detach())):
                drifts.setdefault(name, []).append(float(((other.double() - exact) * exact).sum()) / squared)

    def excess(self, name: str) -> float:
        """The mean share over all draws if it is more than is allowed, else 0."""
        drift, own = abs(float(np.mean(self._found[name]))), max(map(abs, self._own[name]))
        return drift if drift > 4 * own + _DRIFT else 0.0


def _cast(x: Tensor, module: nn.Module) -> Tensor:
    """Floating-point inputs in the dtype of the module's parameters; others as they are."""
    dtype = next((each.dtype for each in _tensors(module) if each.is_floating_point()), x.dtype)
    return x.to(dtype) if x.is_floating_point() else x


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _floor(rough: Tensor, exact: Tensor) -> float:
    """The least value to divide errors by, so that an error of up to four times torch's own in float32 passes."""
    return 4 / TOLERANCE * float((rough.detach().double() - exact.detach().double()).abs().max())


def _errors(found: Arrays, wanted: dict[str, Tensor], floors: dict[str, float] | None = None) -> Errors:
    """The error of each tensor in ``wanted``, whose names begin with their kind."""
    floors = floors or {}
    greatest: dict[str, float] = {}
    for name, value in wanted.items():
        kind = name.split(".", 1)[0]
        greatest[kind] = max(greatest.get(kind, 0.0), float(value.detach().abs().max()))
    least = {name: max(_NOISE * greatest[name.split(".", 1)[0]], floors.get(name, 0.0)) for name in wanted}
    return {name: _error(found[name], value, least[name]) for name, value in wanted.items()}


def _error(found: NDArray[Any], wanted: Tensor, floor: float = 0.0) -> float:
    """The error relative to the greatest value of ``wanted``, or to ``floor``; infinite if it is not a number."""
    reference = wanted.detach().double().numpy()
    scale = max(float(np.abs(reference).max(initial=0.0)), floor) or 1.0
    error = float(np.abs(found.astype(np.float64) - reference).max(initial=0.0) / scale)
    return error if np.isfinite(error) else np.inf
