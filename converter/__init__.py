"""The host's side: lowers a network for a board, checks what it computes, and writes the bundle. Needs torch."""
