"""A portrait that takes over the movements of a face in a video or at a webcam."""

from personalive.animate.job import AnimateOptions, animate
from personalive.config import ModelConfig
from personalive.engine.stream import Stream
from personalive.errors import PersonaLiveError
from personalive.pipeline import PersonaLive

__all__ = ["AnimateOptions", "ModelConfig", "PersonaLive", "PersonaLiveError", "Stream", "__version__", "animate"]

__version__ = "0.1.0"
