"""Our code and the peer libraries in one process, taking turns. Start at README.md."""
