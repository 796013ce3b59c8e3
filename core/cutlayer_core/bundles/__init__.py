"""What is delivered to a board: bundles (the client-side model), releases (the whole program) and signed updates."""
