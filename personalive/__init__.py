"""A portrait that takes over the movements of a face in a video or at a webcam."""

from personalive.config import ModelConfig
from personalive.errors import PersonaLiveError
from personalive.pipeline import PersonaLive
from personalive.stream import Stream

__all__ = ["ModelConfig", "PersonaLive", "PersonaLiveError", "Stream"]
