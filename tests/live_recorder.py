"""A client in a process of its own that writes down when each picture reached it.

    python -m tests.live_recorder URL RED GREEN BLUE

Prints "ready SESSION COOKIE" once pictures come, and when its standard input ends one line of JSON: times in seconds on
the machine's monotonic clock, and whether every picture showed the portrait of that colour. A browser draws when it
finds the time; this client notes the arrival.
"""

import asyncio
import json
import sys

from personalive.live.hub.clients import COOKIE
from personalive.live.transport import aiortc_fixes
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import picture, shows


async def record(url: str, colour: tuple[int, int, int]) -> dict[str, object]:
    """Drive a session, and note what comes."""
    async with LiveClient(url) as client:
        await client.reference(picture(colour))
        await client.offer(Camera(grey()))
        await client.watch(25)
        print("ready", client.session_id, client.http.cookies[COOKIE], flush=True)
        client.pictures.clear()
        end, times, own = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read)), [], True
        while not end.done():
            await asyncio.sleep(0.2)
            while client.pictures:
                when, image = client.pictures.popleft()
                times.append(when)
                own = own and shows(image, colour)
    return {"times": times, "own": own}


def main() -> None:
    """Run the client."""
    aiortc_fixes.apply()
    red, green, blue = map(int, sys.argv[2:])
    print(json.dumps(asyncio.run(record(sys.argv[1], (red, green, blue)))), flush=True)


if __name__ == "__main__":
    main()
