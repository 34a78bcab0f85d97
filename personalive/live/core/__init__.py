"""One live session: frames in and out, the scheduler, and the thread that computes."""
