"""Holds the command line: a file for each command. Only here is anything printed."""
