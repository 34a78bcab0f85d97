"""Several live servers of one machine behind one address: a front, and a process for each GPU."""
