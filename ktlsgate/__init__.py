"""ktlsgate: TLS handshake here, keys into the kernel, the socket to your backend.

The rooms, and who may import whom (an arrow means "may import")::

    service ──► gate ──► kernel ──► wire          backend ──► kernel, wire
    everyone ──► errors, config, metrics          (the leaves import only errors)

``wire``
    bytes in, values out: records, key schedule, HTTP head, SCGI. Touches nothing.
``kernel``
    one system call, one function: kTLS, control records, descriptors, the probe.
``gate``
    the life of one client connection, on Trio: bytes between kernel and wire.
``backend``
    the receiving side: a handoff in, a connection object out. No pyOpenSSL.
``service``
    the process: command line, files, signals, logs.

The rooms' own ``__init__`` modules import nothing, so that the receiving side
stays as light as what it uses.
"""

__version__ = "0.1.0.dev0"
