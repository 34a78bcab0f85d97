"""What a process of a batch does before its first job, and which model that is."""

from dataclasses import dataclass
from pathlib import Path

from personalive.batch.worker import MakeJob
from personalive.loading import NAMES, ModelChoice
from personalive.processes import Seat


@dataclass(frozen=True)
class Preparation:
    """Loads the model in a process; see `worker.Prepare`."""

    choice: ModelChoice
    retries: int
    run: str
    """See `Maker.run`."""

    def __call__(self, seat: Seat) -> MakeJob:
        """The function that makes jobs.

        Raises:
            PersonaLiveError: the model cannot be loaded.
        """
        from personalive.batch.making import Maker  # PyTorch is imported only once the process has taken its seat

        return Maker(seat.choice(self.choice).for_files().load(), self.retries, self.run)


def model_text(model: str, choice: ModelChoice) -> str:
    """The model and how it computes, as far as pictures depend on that: see `Job.model`.

    Args:
        model: its name or folder.
        choice: the rest.
    """
    folder = Path(model).expanduser()
    if model not in NAMES and folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        found = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        model = f"{folder.resolve()} {found}"
    return f"{model} {choice.dtype} {choice.quantize} {choice.accumulate} {choice.tiny_vae}"
