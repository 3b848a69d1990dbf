"""The receiving side: takes handoffs, gives connections. Needs no pyOpenSSL."""
