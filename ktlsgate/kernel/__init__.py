"""Thin synchronous system calls: one call, one function; no policy, no retry, no await."""
