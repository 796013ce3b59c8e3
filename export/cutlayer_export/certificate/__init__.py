"""Compares exported graphs, run by the stock runtime, with the user's model in torch."""
