"""Clients that are broken, idle or hostile, against the real servers."""
