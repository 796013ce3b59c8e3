"""Which devices are there, and the conversations with them."""
