"""Whole trials on one machine: broker, devices and server as processes, over links like those in the field."""
