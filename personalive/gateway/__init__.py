"""The service in front of Cog's own server: it checks what strangers send, and calls the addresses that they name.

`docs/decisions.md` says why, and `docs/security.md` what it protects against.
"""
