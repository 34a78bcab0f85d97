"""Scripts that show what docs/decisions.md claims. They install nothing and need more than the package does."""
