"""What may be chosen, declared once: see `declare` for how, `animation` for an animation's settings.

Those of the model are in `personalive.loading`, those of a live session and of its server in `personalive.live`.
"""

from personalive.settings.animation import (
    DRIVER,
    EVERYWHERE,
    FILES,
    REFERENCE,
    AnimateOptions,
    MotionSettings,
    SizeSettings,
)
from personalive.settings.declare import About, Setting, Settings, Surface, same, setting

__all__ = [
    "DRIVER",
    "EVERYWHERE",
    "FILES",
    "REFERENCE",
    "About",
    "AnimateOptions",
    "MotionSettings",
    "Setting",
    "Settings",
    "SizeSettings",
    "Surface",
    "same",
    "setting",
]
