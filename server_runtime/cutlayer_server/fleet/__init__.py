"""The devices of a trial: which are there, and the conversations with them."""
