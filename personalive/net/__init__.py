"""Connections to and from strangers: where they may lead, how long they may take, how many may wait."""
