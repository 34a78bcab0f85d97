"""The live server: a camera in, the animated portrait out, for several people at once.

`core` and `hub` need nothing but the engine; `transport` and `http` need the packages of the extra `live`.
"""
