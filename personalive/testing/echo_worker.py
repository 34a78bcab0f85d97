"""Workers of a front over a model that echoes, which processes import by its name."""

from dataclasses import dataclass

from personalive.live.hub.loader import EngineFactory
from personalive.live.options import ServeOptions
from personalive.testing.echo import echo_factory


@dataclass(frozen=True)
class EchoWorkers:
    """A `MakeFactory` (see `personalive.live.front.worker`)."""

    seconds: float = 0.0
    """Time of a call."""
    size: int = 256
    """Pixels of each side."""

    def __call__(self, options: ServeOptions) -> EngineFactory:
        """Makes engines of the model's shape."""
        return echo_factory(chunk_frames=4, delay_frames=12, seconds=self.seconds, size=self.size)
