"""The live server: a camera in, the animated portrait out, for several people at once.

`frames`, `session` and `scheduler` need nothing but the engine; `server`, `webrtc` and `websocket` are the doors that
need FastAPI and aiortc.
"""
