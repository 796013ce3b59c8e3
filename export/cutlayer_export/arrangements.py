"""The arrangements of a client's training graphs: a bundle's own, and others of which a board may choose by measurement.

Whether Winograd's convolutions are faster depends on the processor. An export goes by an estimate that was fitted on one;
`cutlayer device tune` measures on the board what the bundle holds. And whether they train as torch does depends on the
model: a window of zeros gives exactly the bias, which may be zero, and then Winograd's rounding decides what a ReLU behind
it passes on. An arrangement that the certificate refuses is left out.
"""

import copy
from collections.abc import Callable, Iterator
from importlib import import_module
from math import inf
from typing import NamedTuple

import msgspec

from cutlayer_core.bundles.certificate import Certificate
from cutlayer_core.bundles.names import in_arrangement
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Form, Graphs, Written
from cutlayer_export.graph.training_graph import Graph
from cutlayer_export.graph.winograd_layers import layers_that_gain
from cutlayer_export.writers import write_graphs

__all__ = ["Arranged", "arranged"]

_DIRECT, _WINOGRAD = "direct", "winograd"
_LEAST_GAIN = {_DIRECT: inf, _WINOGRAD: 0.5}
"""By `names.ARRANGEMENTS`; what is estimated to take twice as long would not be chosen on any board."""


class Arranged(NamedTuple):
    """What the bundle gets: its own graphs, their certificate, and the files of all arrangements by graph name."""

    own: Written
    certificate: Certificate
    files: dict[str, bytes]


class _Other(NamedTuple):
    name: str
    form: Form
    training: Graph


def arranged(
    inference: Graph,
    training: Graph | None,
    form: Form,
    certify: Callable[[Graphs], Certificate],
    tell: Callable[[str], None],
) -> Arranged:
    """Write and certify the arrangement of ``form``, and others if it asks for them.

    Args:
        inference: the traced inference graph.
        training: the traced training graph, which changes; None for a frozen client.
        form: how the graphs are written.
        certify: gives their certificate.
        tell: called at the beginning of each stage, with a line about it.

    Raises:
        UserError: as `write_graphs` does.
        CertificateError: neither the graphs of ``form`` nor, if they differ, those without Winograd's convolutions
            compute what torch computes.
    """
    others = {each.name: each for each in _others(training, form)}
    tell(f"writing graphs for {form.engine}")
    own, left_out = write_graphs(inference, training, form), dict[str, str]()
    tell("comparing with torch")
    try:
        certificate = certify(own.graphs)
    except CertificateError as error:
        if (direct := others.pop(_DIRECT, None)) is None:
            raise
        left_out[_WINOGRAD] = str(error)
        tell("comparing with torch again, without Winograd's convolutions")
        own = write_graphs(inference, direct.training, direct.form)
        certificate = certify(own.graphs)
    files, errors = dict(own.files), dict[str, float]()
    for name, each in others.items() if form.arrangements else ():
        tell(f"comparing the arrangement {name} with torch")
        written = write_graphs(inference, each.training, each.form)
        try:
            errors[name] = certify(written.graphs).worst
        except CertificateError as error:
            left_out[name] = str(error)
            continue
        trained = {graph: content for graph, content in written.files.items() if not graph.startswith("inference")}
        files |= {in_arrangement(graph, name): content for graph, content in trained.items()}
    return Arranged(own, msgspec.structs.replace(certificate, arrangements=errors, left_out=left_out), files)


def _others(training: Graph | None, form: Form) -> Iterator[_Other]:
    """Those that differ from the one of ``form``; writing a graph changes it, so each has a copy."""
    if training is None:
        return
    own = import_module(f"cutlayer_export.{form.engine}.writer").least_gain
    seen = {len(layers_that_gain(training.module, own(form)))}
    for name, least in _LEAST_GAIN.items():
        other = form._replace(least_gain=least)
        number = len(layers_that_gain(training.module, own(other)))
        if number not in seen and (form.arrangements or name == _DIRECT):
            seen.add(number)
            yield _Other(name, other, training._replace(module=copy.deepcopy(training.module)))
