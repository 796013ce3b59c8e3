"""``python -m cutlayer``."""

from cutlayer.cli.main import main

if __name__ == "__main__":
    main()
