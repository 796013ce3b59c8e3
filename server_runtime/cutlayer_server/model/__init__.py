"""The server-side model: optimizer steps, evaluation, and where it is computed."""
