"""What the gate costs beside nginx, haproxy, hitch and stunnel, measured side by side on loopback.

    make bench                      everything, about half an hour
    make bench ARGS=--quick         most of it with less patience: about a minute
    make bench ARGS='--only conn,keep --servers nginx,gate'
    make bench ARGS=--record        keep the figures in scripts/bench/history
    make bench ARGS=--compare       the last two that were kept, side by side

Method. One server per program, all up at once, each with one worker, on one CPU; load generator and
backend on another. Loads take turns: a slice of a fraction of a second for each server, then the
next round, in another order. What counts is the CPU time of a server's processes per operation,
divided by nginx's in the same round: a machine that is shared changes its speed by a factor of two
within the hour, which the ratio does not notice. Reported are the median over the rounds and the
quartiles. Rates and latencies are wall-clock, so they need a calm machine.

Keys not installed. On a kernel without kTLS the gate is started by `bench.keyless_gate`: it derives
the keys and hands the connection over as always, and a system call that does nothing stands in the
place of each that would give the kernel a key. Client and backend then speak in clear. So nothing
here tells what the kernel's own encryption costs, which no process of the gate is charged for
anyway: the backend's sends are.

The floor is the gate's path in C (``gate.c``) with nothing around it and in clear: what Python,
routes, deadlines and key derivation cost is what the gate takes beyond it.

Newest programs. nginx and haproxy of the newest Debian that ``scripts/lab.py`` knows run here by
that release's own loader and libraries, and so does the load generator then, since the new key
exchange takes OpenSSL 3.5. Loads that nginx itself is not able for are compared with that nginx.

Growth. For some loads a gate is started for each of several amounts of something else: routes,
handshakes that never end, connections handed over. They take turns, and the ratio to the smallest
amount tells whether a connection costs the same whatever else there is.

Modules: `cli` and `options` (order of things, command line), `machine` (CPUs, compiler, packages),
`packages` (another release's programs), `peers` and `configs` (what is started, with which
configuration), `servers` (starting, stopping), `loads` (the table of loads), `generator` (putting
them), `measure` (reading /proc), `rounds`, `growth`, `idle`, `leak` and `syscalls` (the kinds of
measurement), `stats`, `results`, `goals`, `breakeven`, `report`, `pictures`, `readme`, `history`;
`lab` (the same in a guest with kTLS). The load generator (``tlsload.c``, ``client.c``),
``backend.c`` and ``gate.c`` are compiled when it starts.
"""
