"""Other arrangements of a client's training graphs, of which a board may choose one by measurement.

Whether Winograd's convolutions are faster depends on the processor. An export goes by an estimate that was fitted on one;
`cutlayer device tune` measures on the board what the bundle holds.
"""

import copy
from collections.abc import Iterator
from importlib import import_module
from math import inf

from cutlayer_export.graph.form import Form
from cutlayer_export.graph.training_graph import Graph
from cutlayer_export.graph.winograd_layers import layers_that_gain

__all__ = ["other_arrangements"]

_LEAST_GAIN = {"direct": inf, "winograd": 0.5}
"""By `names.ARRANGEMENTS`; what is estimated to take twice as long would not be chosen on any board."""


def other_arrangements(training: Graph | None, form: Form) -> Iterator[tuple[str, Form, Graph]]:
    """Names, forms and graphs of those that differ from the one of ``form``, if it asks for any; none of a frozen client.

    Writing a graph changes it, so each has a copy; take them all before ``training`` is written.
    """
    if training is None or not form.arrangements:
        return
    own = import_module(f"cutlayer_export.{form.engine}.writer").least_gain
    seen = {len(layers_that_gain(training.module, own(form)))}
    for name, least in _LEAST_GAIN.items():
        other = form._replace(least_gain=least)
        number = len(layers_that_gain(training.module, own(other)))
        if number not in seen:
            seen.add(number)
            yield name, other, training._replace(module=copy.deepcopy(training.module))
