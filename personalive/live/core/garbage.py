"""When Python looks for objects that nobody uses any more.

A connection of aiortc is a cycle of objects that holds codecs and frames. By itself Python frees such cycles tens of
sessions later, and looks at every object of the process to find them: a tenth of a second in which all stands still.
"""

import gc


def freeze_after_load() -> None:
    """Look no longer at modules and the model, once it is loaded; then `collect` takes milliseconds."""
    gc.unfreeze()
    gc.collect()  # the model before this one
    gc.freeze()


def collect() -> None:
    """Free what connections that have ended leave behind."""
    gc.collect()
