"""Pictures and videos, in and out. It knows nothing of networks."""
