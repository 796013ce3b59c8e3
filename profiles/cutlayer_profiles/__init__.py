"""Profiles: what a run cost, and pages that show it. Torch-free."""
