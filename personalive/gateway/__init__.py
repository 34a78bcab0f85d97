"""The service in front of Cog's own server: it validates untrusted requests, and calls the URLs in them.

`docs/decisions.md` says why, and `docs/security.md` what it protects against.
"""
