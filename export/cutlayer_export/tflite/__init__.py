"""Traced graphs as TFLite files of builtin operations."""
