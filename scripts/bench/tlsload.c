/* Bounded closed-loop TLS 1.3 load on 127.0.0.1, for scripts/bench.
 *
 *   tlsload MODE PORT [-c CONNECTIONS] [-d SECONDS] [-n OPERATIONS] [-b BYTES] [-g GROUP] [-r] [-k]
 *
 *   conn  connect, handshake, one request with "Connection: close", read to the end; again and again
 *   keep  requests one after the other on CONNECTIONS connections
 *   down  CONNECTIONS connections, each fetches /bulk/BYTES once
 *   up    CONNECTIONS connections, each posts BYTES once
 *   idle  opens OPERATIONS connections, CONNECTIONS handshakes at a time, each an answered Upgrade;
 *         says how many it holds, holds them until standard input ends, and ends
 *   half  the same with handshakes of which the server's part is done and the client's is not
 *
 * What counts in keep, down and up is not the handshake. So each connection is made and asked once
 * first; then the word "ready" is written, and the load begins when a line comes on standard input.
 *
 *   -g  the one group that is offered for the key exchange: X25519 unless given
 *   -r  resume: each new connection offers the newest ticket that its slot was given
 *   -k  keyless: behind the handshake speak and expect clear text on the same TCP connection, as a
 *       gate does that has the session keys in a kernel which does not exist; tickets come sealed
 *
 * Writes one line of JSON. Nothing runs longer than SECONDS and some patience.
 */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#define PATIENCE 5.0    /* seconds without progress after which a load gives up */
#define MAX_ERRORS 1000 /* a server that is gone must not be asked for ever */
#define EVENTS 256

static int concurrency = 1;
static double seconds = 5;
static long long limit;

static int poll_slots(int milliseconds)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, milliseconds);
    for (int i = 0; i < count; i++)
        step(events[i].data.ptr);
    return count;
}

static slot *new_slots(int count)
{
    slot *slots = need(calloc(count, sizeof *slots));
    for (int i = 0; i < count; i++)
        slots[i].fd = -1;
    return slots;
}

static void hold(void)
{
    slot *slots = new_slots(limit);
    long long next = 0, before = -1;
    double began = now(), progress = began;
    while (held + errors < limit && now() < progress + PATIENCE && errors < MAX_ERRORS) {
        while (next < limit && next - held - errors < concurrency)
            start(&slots[next++]);
        poll_slots(200);
        if (held != before)
            progress = now();
        before = held;
    }
    printf("{\"held\": %lld, \"errors\": %lld, \"wall\": %.3f, \"first_error\": \"%s\"}\n", held,
           errors, now() - began, first_error);
    fflush(stdout);
    struct pollfd both[] = {{.fd = 0, .events = POLLIN}, {.fd = epoll_fd, .events = POLLIN}};
    double end = now() + seconds;
    while (now() < end) {
        poll(both, 2, 500);
        if (both[0].revents)
            break;
        poll_slots(0);
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float quantile(double part)
{
    return done ? latencies[(size_t)((done - 1) * part)] : 0;
}

/* Make all connections and ask each once; then wait for the word to begin. */
static void prepare(slot *slots)
{
    double end = now() + PATIENCE;
    int ready = 0;
    char line[16];
    is_preparing = true;
    for (int i = 0; i < concurrency; i++)
        start(&slots[i]);
    while (ready < concurrency && errors == 0 && now() < end) {
        poll_slots(200);
        ready = 0;
        for (int i = 0; i < concurrency; i++)
            ready += slots[i].state == READY;
    }
    is_preparing = false;
    if (ready < concurrency)
        return; /* drive() finds out what is missing */
    puts("ready");
    fflush(stdout);
    if (read(0, line, sizeof line) <= 0)
        exit(1);
}

/* Keep all slots busy until time or operations are up; each of a bulk load's runs once. */
static void drive(void)
{
    slot *slots = new_slots(concurrency);
    bool is_bulk = mode == DOWN || mode == UP;
    if (mode != CONN)
        prepare(slots);
    double began = now(), end = began + seconds, progress = began;
    long long before = 0;
    for (int i = 0; i < concurrency; i++)
        if (slots[i].state == READY) {
            begin_request(&slots[i]);
            step(&slots[i]);
        } else if (errors == 0) {
            start(&slots[i]);
        }
    for (int live = 1; live;) {
        is_stopping |= (!is_bulk && now() > end) || (limit && done >= limit);
        live = 0;
        for (int i = 0; i < concurrency; i++) {
            if (slots[i].state == FREE && !is_stopping && !is_bulk && errors < MAX_ERRORS)
                start(&slots[i]);
            live += slots[i].state != FREE;
        }
        if (live)
            poll_slots(200);
        if (done + moved != before)
            progress = now();
        before = done + moved;
        if (now() > progress + PATIENCE) {
            errno = ETIMEDOUT;
            for (int i = 0; i < concurrency; i++)
                if (slots[i].state != FREE)
                    fail(&slots[i], "no progress");
            break;
        }
    }
    double wall = now() - began;
    if (done)
        qsort(latencies, done, sizeof *latencies, by_value);
    printf("{\"operations\": %lld, \"errors\": %lld, \"resumed\": %lld, \"bytes\": %lld, "
           "\"wall\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"first_error\": \"%s\"}\n",
           done, errors, resumed, moved, wall, quantile(.5), quantile(.99), first_error);
}

static void read_arguments(int count, char **words)
{
    static const char *names[] = {"conn", "keep", "down", "up", "idle", "half"};
    int option, found = -1;
    for (int i = 0; count > 2 && i < 6; i++)
        if (strcmp(words[1], names[i]) == 0)
            found = i;
    while (found >= 0 && (optind = optind < 3 ? 3 : optind) &&
           (option = getopt(count, words, "c:d:n:b:g:rk")) != -1)
        switch (option) {
        case 'c': concurrency = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'n': limit = atoll(optarg); break;
        case 'b': bulk = atoll(optarg); break;
        case 'g': group = optarg; break;
        case 'r': resumes = true; break;
        case 'k': is_keyless = true; break;
        default: found = -1;
        }
    if (found < 0 || (found >= IDLE && limit < 1)) {
        fputs("tlsload: see the top of tlsload.c\n", stderr);
        exit(2);
    }
    mode = found;
    port = atoi(words[2]);
}

int main(int count, char **words)
{
    struct rlimit files;
    read_arguments(count, words);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    make_client();
    if (mode >= IDLE)
        hold();
    else
        drive();
    return 0;
}
