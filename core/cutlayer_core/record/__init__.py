"""What a run leaves behind: its events, the resources used, where the time went, and the link it ran over."""
