"""Connections to strangers and from them: where they may lead, how long they may take, how many may wait."""
