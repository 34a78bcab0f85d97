"""When Python's garbage collector runs.

A connection of aiortc is a cycle of objects that holds codecs and frames. Left to itself, Python frees such cycles
dozens of sessions later, and looks at every object of the process to find them: a tenth of a second in which everything
stands still.
"""

import gc


def freeze_after_load() -> None:
    """Exclude modules and the loaded model from now on, so that `collect` takes milliseconds."""
    gc.unfreeze()
    gc.collect()  # the model before this one
    gc.freeze()


def collect() -> None:
    """Free what ended connections leave behind."""
    gc.collect()
