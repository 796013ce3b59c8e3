"""Set .venv up on a machine that has Python and nothing else; `make` calls it. Standard library only."""
