"""Pictures and videos, in and out. Knows nothing of networks."""
