"""One animation: the streaming algorithm over the networks (paper section 3; docs/reference/streaming.md)."""
