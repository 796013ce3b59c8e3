"""Inference on the device: alone, or with the rest of the model on the server."""
