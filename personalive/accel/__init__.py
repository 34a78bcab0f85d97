"""Everything that makes the same numbers faster or smaller in memory. Without it, pictures are the same."""
