"""A client in a process of its own that writes down when each picture reached it.

    python -m tests.live_recorder URL RED GREEN BLUE SECONDS

Prints one line of JSON: times in seconds on the machine's monotonic clock, and whether every picture showed the
portrait of that colour. A browser draws when it finds the time; this client notes the arrival.
"""

import asyncio
import json
import sys

from personalive.live import aiortc_fixes
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import picture, shows


async def record(url: str, colour: tuple[int, int, int], seconds: float) -> dict[str, object]:
    """Drive a session, and note what comes."""
    async with LiveClient(url) as client:
        await client.reference(picture(colour))
        await client.offer(Camera(grey()))
        await client.watch(25)
        print("ready", flush=True)
        client.pictures.clear()
        await asyncio.sleep(seconds)
        rows = list(client.pictures)
    return {"times": [when for when, _ in rows], "own": all(shows(image, colour) for _, image in rows)}


def main() -> None:
    """Run the client."""
    aiortc_fixes.apply()
    url, *colour, seconds = sys.argv[1:]
    red, green, blue = map(int, colour)
    result = asyncio.run(record(url, (red, green, blue), float(seconds)))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
