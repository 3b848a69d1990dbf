"""One client connection's life on Trio: moves bytes between kernel and wire."""
