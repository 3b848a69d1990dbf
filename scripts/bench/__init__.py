"""What the gate costs beside nginx, haproxy, hitch and stunnel, measured side by side on loopback.

    make bench                      everything, about half an hour
    make bench ARGS=--quick         half of the kinds, one short round each: about a minute
    make bench ARGS='--only conn,keep --servers nginx,gate'
    make bench ARGS=--record        keep the figures in scripts/bench/history
    make bench ARGS=--compare       the last two that were kept, side by side

Method. One server for each program and kind of key, each with one worker, on one CPU; load
generator and backend on another, if there are two. For the loads all are up at once and take turns:
a slice of each load for each server, a fraction of a second or a fixed number of bytes, then the
next round, in another order. What counts is the CPU time of a server's processes for an operation
or a gigabyte (in loads that ask how long a connection takes, the median time), divided by nginx's
in the same round: a machine that is shared changes its speed by a factor of two within the hour,
which the ratio does not notice. Reported are the median over the rounds and the quartiles. Rates
and latencies are wall-clock, so they need a calm machine. Idle connections, leaks and system calls
are measured with one server up at a time.

Keys not installed. On a kernel without kTLS the gate is started by `bench.keyless_gate`: it derives
the keys and hands the connection over as always, and a system call that does nothing stands in the
place of each that would ask the kernel for kTLS. Client and backend then speak in clear. So nothing
here tells what the kernel's own encryption costs, which no process of the gate is charged for
anyway: the backend's sends are.

The floor is the gate's path in C (``gate.c``) with nothing around it and in clear: what Python,
routes, deadlines and key derivation cost is what the gate takes beyond it.

Newest programs. nginx and haproxy of the newest Debian that ``scripts/lab.py`` knows run here by
that release's own loader and libraries. So does the floor, beside itself on this system's, and so
does the load generator then, since the new key exchange takes OpenSSL 3.5. Loads that nginx itself
is not able for are compared with that nginx.

Growth. New connections, to a gate for each of several amounts of something else: routes, handshakes
that never end, connections handed over. These gates take turns, and the ratio to the smallest
amount tells whether a connection costs the same whatever else there is.

Modules: `cli` and `options` (order of things, command line), `machine` (CPUs, compiler, packages),
`packages` (another release's programs), `peers` and `configs` (what is started, with which
configuration), `keyless_gate` (the gate without kTLS), `servers` (starting, stopping), `loads` (the
table of loads), `generator` (putting them), `measure` (CPU time, memory and descriptors of a
process), `rounds`, `growth`, `idle`, `leak` and `syscalls` (the kinds of measurement), `stats`,
`results`, `goals`, `breakeven`, `report`, `pictures`, `readme`, `history`; `lab` (the same in a
guest with kTLS). The load generator (``tlsload.c``, ``client.c``), ``backend.c`` and ``gate.c`` are
compiled when it starts, unless a folder with them is given.
"""
