"""Images changed before each step, a whole batch at a time, and pairs of them that are mixed."""
