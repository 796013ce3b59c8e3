"""The trial file as typed structs: what to train, how to cut it, and how clients and server learn together."""
