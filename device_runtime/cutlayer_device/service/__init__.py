"""The device as a daemon under systemd: installing releases, taking updates, staying alive."""
