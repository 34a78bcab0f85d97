"""The sessions of all clients: who has one, who may open one, and when one ends."""
