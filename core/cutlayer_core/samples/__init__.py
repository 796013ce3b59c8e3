"""The samples that a board trains on: loading, preparing, batching, and the seeds of every random draw."""
