"""An animation that an untrusted client has asked for over HTTP: inputs are fetched, and errors fit for the client."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from personalive.animate.job import Progress, animate
from personalive.animate.progress import show_lines
from personalive.errors import PersonaLiveError
from personalive.media.fetched import fetched_inputs
from personalive.pipeline import PersonaLive
from personalive.settings import RequestOptions


class InternalError(PersonaLiveError):
    """Something that nobody expected; its client is not told what."""


def animate_request(
    model: PersonaLive,
    ref_image: str,
    driving_video: str,
    options: RequestOptions,
    folder: Path,
    say: Callable[[str], None],
    *,
    check: Callable[[], None] = lambda: None,
    scratch: str | None = None,
) -> Path:
    """Make what was asked for.

    Args:
        model: makes it.
        ref_image: address or data: URL of the portrait.
        driving_video: the same of the driver.
        options: the other inputs.
        folder: for the result.
        say: is told how far it is, line by line.
        check: is called after each chunk; what it raises ends the work.
        scratch: the folder for temporary ones; None: the system's.

    Returns:
        The result's file.

    Raises:
        PersonaLiveError: it cannot be made; the message is for the client.
    """
    output = folder / f"output.{options.output_format}"
    with _errors_for_clients(folder), fetched_inputs(scratch) as inputs:
        reference = inputs.fetch(ref_image, "the reference")
        driver = inputs.fetch(driving_video, "the driving video")
        with closing(animate(model, reference, driver, output, options)) as work:
            show_lines(_checked(work, check), lambda line: say(inputs.named(line)))
    return output


def _checked(work: Iterable[Progress], check: Callable[[], None]) -> Iterator[Progress]:
    for progress in work:
        check()
        yield progress


@contextmanager
def _errors_for_clients(results: Path) -> Iterator[None]:
    """What a client is told about an error: nothing about paths on the server or its internals."""
    try:
        yield
    except PersonaLiveError as error:
        raise type(error)(str(error).replace(f"{results}/", "")) from None
    except Exception:
        # Anything else that is printed may be part of the prediction's logs, which the client gets.
        print(traceback.format_exc(), file=sys.__stderr__, flush=True)
        raise InternalError("internal server error; see the server's log") from None
