"""Everything that computes the same numbers faster or in less memory. The pictures are the same without it."""
