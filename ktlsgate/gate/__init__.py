"""One client connection's life, a fiber on Trio: moves bytes between kernel and wire."""
