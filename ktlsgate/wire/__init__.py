"""Bytes in, values out: no socket, no clock, no file, no log, no await."""
