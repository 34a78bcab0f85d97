"""Connections with untrusted peers: allowed addresses, time limits, and how many may wait."""
