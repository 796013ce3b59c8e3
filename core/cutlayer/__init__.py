"""What board and server agree on: messages, chunks, codecs, schedules, the session, and the trial file."""

__version__ = "0.1.0"
