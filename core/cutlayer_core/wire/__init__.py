"""How board and server talk: messages, the chunks that carry them, topics, sessions, transports."""
