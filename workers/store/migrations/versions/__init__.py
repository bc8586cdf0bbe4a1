"""One file for each step of that history."""
