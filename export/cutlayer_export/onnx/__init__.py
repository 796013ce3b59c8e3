"""Writes the traced training step as ONNX graphs."""
