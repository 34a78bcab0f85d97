"""What may be chosen, declared once: see `declare` for how, `animation` for an animation's settings.

Those of the model are in `personalive.loading`, those of a live session and of its server in `personalive.live`.
"""

from personalive.settings.animation import (
    DRIVER,
    REFERENCE,
    AnimateOptions,
    MotionSettings,
    RequestOptions,
    SigningSettings,
    SizeSettings,
)
from personalive.settings.declare import Setting, Settings, Surface, count_or_auto, same, setting

__all__ = [
    "DRIVER",
    "REFERENCE",
    "AnimateOptions",
    "MotionSettings",
    "RequestOptions",
    "Setting",
    "Settings",
    "SigningSettings",
    "SizeSettings",
    "Surface",
    "count_or_auto",
    "same",
    "setting",
]
