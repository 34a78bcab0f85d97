"""Heads in space for training: shapes from a baked file, everything else procedural."""
