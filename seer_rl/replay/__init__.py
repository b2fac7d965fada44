"""Hold steps in one allocation of fixed size, and numbers in few bytes."""
