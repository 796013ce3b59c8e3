"""The server's half of the model: optimizer steps, evaluation, and where it is computed."""
