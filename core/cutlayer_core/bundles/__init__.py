"""What is carried to a board: a bundle with the client-side model, a release with the program, an update of either."""
