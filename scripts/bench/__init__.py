"""What the gate costs beside nginx, haproxy, hitch and stunnel, measured side by side on loopback.

    make bench                      everything, about a quarter of an hour
    make bench ARGS=--quick         most of it with less patience: under a minute
    make bench ARGS='--only conn,keep --servers nginx,gate'

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

Modules: `cli` (options, order of things), `machine` (CPUs, compiler, packages), `peers` (what is
started, with which configuration), `servers` (starting and stopping), `loads` (the table of loads),
`measure` (reading /proc), `rounds`, `idle`, `leak` and `syscalls` (the kinds of measurement),
`stats`, `results`, `goals`, `breakeven`, `report`, `chart`, `readme`; `lab` (the same in a guest
with kTLS). The load generator (``tlsload.c``, ``client.c``) and
``backend.c`` are compiled when it starts.
"""
