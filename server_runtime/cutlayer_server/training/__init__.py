"""Leads the devices of a trial through its epochs."""
