"""The replay: one allocation of fixed size, and how numbers are stored in it."""
