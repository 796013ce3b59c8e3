"""Which arrangement of a bundle's graphs this board trains by."""
