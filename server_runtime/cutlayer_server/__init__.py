"""The server: trains the server-side model, leads the devices through a trial, and records the run."""
