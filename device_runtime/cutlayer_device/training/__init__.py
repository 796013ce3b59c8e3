"""A device's part in a trial: joining, passes over its samples, and the states it keeps on disk."""
