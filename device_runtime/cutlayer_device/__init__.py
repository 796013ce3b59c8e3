"""The board: runs and trains the client-side model of a bundle, without torch."""
