"""Runs the numerical goldens of a folder through the public classes: `python -m tests.parity DIR`."""
