"""Draws README's opening picture: reference, driver and result of the demo, moving.

./predict.sh --model demo --side_by_side --no_audio --output outputs/picture.mp4
python scripts/demo_picture.py outputs/picture.mp4 docs/images/demo.webp
"""

import argparse
from pathlib import Path

from PIL import Image

from personalive.media.video_reader import probe, read_frames

EVERY = 2
"""Frames of the video for each one of the picture."""
QUALITY = 60


def main() -> None:
    """Turn a video into an animated WebP at half its frame rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    info = probe(arguments.video)
    frames = [Image.fromarray(frame) for frame in list(read_frames(info))[::EVERY]]
    duration = round(1000 * EVERY / float(info.rate))
    frames[0].save(
        arguments.picture, save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=QUALITY, method=6
    )


if __name__ == "__main__":
    main()
