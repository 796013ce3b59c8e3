"""What one training step costs on this board."""
