"""The training step of a client-side model as a traced graph, which both writers translate."""
