"""Which processes a batch has, and what each does before its first job."""

import os
from dataclasses import dataclass
from pathlib import Path

from personalive.batch.worker import MakeJob, Seat
from personalive.errors import InputError
from personalive.loading import ModelChoice

# PyTorch is imported where it is used: a process is told its GPU and its threads first.


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
        import torch

        from personalive.batch.making import Maker

        if seat.threads is not None:
            torch.set_num_threads(seat.threads)
        # The one GPU that the process sees is its first.
        choice = self.choice if seat.gpu is None else self.choice.replace(device="cuda")
        return Maker(choice.load(), self.retries, self.run)


def seats(choice: ModelChoice, workers: int | None) -> list[Seat]:
    """The processes of this machine.

    Args:
        choice: of the model and its device.
        workers: how many; None: one for each GPU, or one.

    Raises:
        InputError: there is no such device.
    """
    gpus = _gpus(choice)
    if gpus:
        return [Seat(gpu=gpus[index % len(gpus)]) for index in range(workers or len(gpus))]
    count = workers or 1
    cores = len(os.sched_getaffinity(0))
    threads = None if count == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores // count)
    return [Seat(threads=threads) for _ in range(count)]


def _gpus(choice: ModelChoice) -> list[str]:
    """The GPUs that were chosen, as CUDA_VISIBLE_DEVICES names them; nothing is begun on them."""
    import torch

    kind, _, index = (choice.device or "cuda").partition(":")
    if kind != "cuda":
        choice.resolved_device()
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [name.strip() for name in visible.split(",")][:count] if visible else [*map(str, range(count))]
    if choice.device is None or (not index and names):
        return names
    if not index.isdecimal() or int(index) >= len(names):
        raise InputError(f"the device {choice.device!r} cannot be used here: {_there(len(names))}")
    return [names[int(index)]]


def _there(count: int) -> str:
    if not count:
        return "PyTorch finds no GPU; try cpu"
    return "there is one GPU, cuda:0" if count == 1 else f"there are {count} GPUs, cuda:0 to cuda:{count - 1}"


def model_text(model: str, choice: ModelChoice) -> str:
    """The model and how it computes, as far as pictures depend on that: see `Job.model`.

    Args:
        model: its name or folder.
        choice: the rest.
    """
    folder = Path(model).expanduser()
    if model not in ("personalive", "demo") and folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        found = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        model = f"{folder.resolve()} {found}"
    return f"{model} {choice.dtype} {choice.quantize} {choice.tiny_vae}"
