"""Writes traced graphs as the graphs of a bundle, with the writer of the chosen engine."""

from importlib import import_module

from cutlayer_export.graph.form import Form, Written
from cutlayer_export.graph.training_graph import Graph

__all__ = ["write_graphs"]


def write_graphs(inference: Graph, training: Graph | None, form: Form) -> Written:
    """Write graphs in a form that `Form.check` has accepted. A writer's packages are imported only when it is called.

    Raises:
        UserError: an operation cannot be expressed by the engine, or a package that it needs is missing.
    """
    written: Written = import_module(f"cutlayer_export.{form.engine}.writer").write(inference, training, form)
    return written
