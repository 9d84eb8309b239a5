"""What others do for the same work, called as their own documentation calls it."""
