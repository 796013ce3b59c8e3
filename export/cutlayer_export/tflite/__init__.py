"""Writes the traced training step as TFLite files of builtin operations."""
