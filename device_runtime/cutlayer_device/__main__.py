"""``python -m cutlayer_device``: the board's program, with nothing of the server installed."""

from cutlayer_device.cli import main

if __name__ == "__main__":
    main()
