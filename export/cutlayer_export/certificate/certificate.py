"""The certificate: how far the exported graphs, run by the stock runtime, are from torch.

The exported graphs and the user's whole model in torch, run up to the cut, both train for some steps, with the same
batches, cut gradients and dropout seeds. Torch computes in float64, so that the error of the export is measured and not
torch's. Every other batch is full of equal entries, and one is large enough for the runtime to share its work among
threads. Every graph runs on one thread and on several; see `cutlayer_export.graph.threads`.

* In every step, smashed data and gradients are compared with those of torch autograd.
* After the last step, parameters, buffers and optimizer state are compared with those of torch.optim, which is given
  the exported graph's gradients: an optimizer such as Adam would blow rounding noise in a gradient up to a whole step.

The error of a tensor is the greatest absolute difference divided by the greatest absolute value of torch's tensor, or
by a hundredth of the greatest value of any tensor of its kind if that is more: a gradient that is zero but for rounding
is all noise. For the same reason an error passes that is at most four times the one that torch itself makes in float32,
compared with float64.

Where the input of a ReLU is zero up to rounding, or two entries tie for a maximum, rounding decides which way it goes,
and that shifts gradients by whole entries. A step with too large an error is repeated with other data only if torch
itself shows that it is such a case: its own results in float32, with the data as they are or off by rounding, are as far
from those in float64. The certificate counts such draws. Without that proof the export is refused.

Large models have such a place in every batch. If all `DRAWS` draws are such cases, the errors of the last one are
compared with the greatest error that torch itself made in any of them. That error may be a hundredth of a gradient, so
mistakes of such a size have to be found in another way: rounding has no direction, but a mistake has. In the mean of
all draws, a gradient may be too long by at most four times torch's own share, plus a thousandth.
"""

from collections.abc import Iterable
from math import prod

from torch import nn

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.bundles.certificate import Certificate
from cutlayer_cut import UpToCut, where_paths_part
from cutlayer_export.certificate.batches import EXAMPLE_BATCH, MANY, cut_gradient, samples
from cutlayer_export.certificate.comparison import Comparison, require
from cutlayer_export.certificate.distance import Errors, error_of, floor_of
from cutlayer_export.certificate.references import References
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Arrays, Graphs, Run

__all__ = ["certify"]

STEPS = 5
BATCH_SIZES = (2, 5, 8)
_MOST_SAMPLES = 64


def certify(
    source: UpToCut,
    module: nn.Module,
    trainable: str,
    client: Client,
    values: Arrays,
    graphs: Graphs,
    sizes: Iterable[int] = (),
) -> Certificate:
    """Compare the exported graphs with torch, for `STEPS` steps with each of `BATCH_SIZES`, and for two with others.

    Args:
        source: the user's model.
        module: the client-side half.
        trainable: as in `cutlayer_cut.client_state`.
        client: its description.
        values: initial values by graph input name.
        graphs: the exported graphs.
        sizes: more batch sizes to try.

    Raises:
        CertificateError: an error exceeds the tolerance; the text names the tensor, and the line of the user's code that
            decides by the size of the batch, if it differs for some sizes only.
    """
    references = References(source, module, trainable, samples(client.input, 2, 0, alike=False))
    errors: Errors = {}
    done, redrawn = [], 0
    for batch, steps in _plan(client, sizes):
        references.reset()
        try:
            found = {"inference.z": _inference_error(references, client, values, graphs.inference, batch)}
            if client.optimizer is not None and _trains_on(references, client, batch):
                comparison = Comparison(references, client, values, graphs)
                found |= comparison.run(batch, steps)
                redrawn += comparison.redrawn
            require(found, batch)
        except CertificateError as error:
            raise CertificateError(f"{error}{_decided_at(references, client, batch)}") from error
        errors |= {name: max(errors.get(name, 0.0), error) for name, error in found.items()}
        done.append(batch)
    return Certificate(steps=STEPS, batch_sizes=tuple(done), errors=errors, redrawn=redrawn)


def _plan(client: Client, sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Batch sizes, each with a number of steps; a last batch may be as small as one sample."""
    many = min(_MOST_SAMPLES, max(BATCH_SIZES[-1] + 1, -(-MANY // max(prod(client.input.shape), 1))))
    others = {1, many, *sizes} - {*BATCH_SIZES}
    return [*((batch, STEPS) for batch in BATCH_SIZES), *((batch, 2) for batch in sorted(others))]


def _decided_at(references: References, client: Client, batch: int) -> str:
    """The line of the user's code that goes another way for this batch than for the one that was traced, in words."""
    traced, other = (samples(client.input, size, 0, alike=False) for size in (EXAMPLE_BATCH, batch))
    references.reset()
    line = where_paths_part(references.single.train, traced, other) if batch != EXAMPLE_BATCH else ""
    return f"; the model's code decides by the size of the batch at {line}" if line else ""


def _trains_on(references: References, client: Client, batch: int) -> bool:
    if batch > 1:
        return True
    x = samples(client.input, batch, 0, alike=False)
    return references.trains_on(x, cut_gradient(client, batch, 0))


def _inference_error(references: References, client: Client, values: Arrays, run: Run, batch: int) -> float:
    errors = []
    for alike in (False, True):
        x = samples(client.input, batch, seed=batch, alike=alike)
        wanted = references.exact.infer(x)
        own = floor_of(references.single.infer(x), wanted)
        errors.append(error_of(run({**values, "x": x.numpy()})["z"], wanted, own))
    return max(errors)
