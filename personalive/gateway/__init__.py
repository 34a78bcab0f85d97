"""The service in front of Cog's own server: it checks what strangers send, and calls what they name.

`docs/decisions.md` says why, `docs/security.md` what it keeps off.
"""
