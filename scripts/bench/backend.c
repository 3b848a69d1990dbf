/* The backend behind all servers of scripts/bench: a small HTTP/1.1 server on one epoll descriptor.
 *
 *   backend HTTP_PATH HANDOFF_PATH SECONDS
 *
 * Plain HTTP on the Unix socket HTTP_PATH, for proxies; on HANDOFF_PATH a gate's handoffs: a netstring
 * of SCGI headers with the client's descriptor, one a connection or one after another if the gate
 * says that it keeps it. The descriptor is served like any other connection from then on, in plain
 * bytes (the kernel's keys, if it has any, are not this program's business).
 * GET /bulk/N answers N bytes, a POST's body is read and forgotten, an Upgrade is answered 101 and
 * held. Ends by itself after SECONDS, whoever forgets to stop it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define EVENTS 256
#define ROOM 8192 /* of a request's head */
#define CHUNK (1 << 17)
#define ACCEPTS 64

enum kind { HTTP_LISTENER, HANDOFF_LISTENER, HTTP, HANDOFF };

typedef struct connection {
    int fd;
    enum kind kind;
    uint32_t waits_for;
    bool closes, is_upgraded;
    long long to_send, to_drain;
    size_t size;
    char *buffer; /* of an HTTP connection that may ask again */
} connection;

typedef struct request {
    bool closes, upgrades, is_post;
    long long bulk, length;
} request;

static int epoll_fd;
static char chunk[CHUNK];

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
#define BODY "Content-Length: 12\r\n\r\nHello world\n"
static const char ANSWER[] = HEAD BODY;
static const char LAST_ANSWER[] = HEAD "Connection: close\r\n" BODY;
static const char UPGRADED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                               "Connection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void wait_for(connection *c, uint32_t events)
{
    if (c->waits_for == events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, c->waits_for ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
    c->waits_for = events;
}

static connection *new_connection(int fd, enum kind kind)
{
    connection *c = calloc(1, sizeof *c);
    if (c == NULL || (kind == HTTP && (c->buffer = malloc(ROOM)) == NULL))
        die("memory");
    c->fd = fd;
    c->kind = kind;
    return c;
}

static void drop(connection *c)
{
    /* As long as a gate has not closed its copy, close() alone would leave the entry. */
    if (c->waits_for)
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    free(c->buffer);
    free(c);
}

/* These answer whether the connection lives on. */

static bool answer(connection *c, const char *text, size_t size)
{
    return send(c->fd, text, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static bool pump(connection *c)
{
    while (c->to_send > 0) {
        size_t size = c->to_send < CHUNK ? c->to_send : CHUNK;
        ssize_t count = send(c->fd, chunk, size, MSG_NOSIGNAL);
        if (count < 0) {
            wait_for(c, EPOLLOUT);
            return errno == EAGAIN;
        }
        c->to_send -= count;
    }
    wait_for(c, EPOLLIN);
    return !c->closes;
}

static bool respond(connection *c, const request *r)
{
    char head[96];
    if (r->upgrades) {
        c->is_upgraded = true;
        free(c->buffer); /* many of them are held */
        c->buffer = NULL;
        return answer(c, UPGRADED, sizeof UPGRADED - 1);
    }
    c->closes = r->closes;
    if (r->bulk) {
        int size = snprintf(head, sizeof head, HEAD "Content-Length: %lld\r\n\r\n", r->bulk);
        c->to_send = r->bulk;
        return answer(c, head, size) && pump(c);
    }
    if (r->is_post && r->length) {
        c->to_drain = r->length;
        return true;
    }
    if (r->closes) {
        answer(c, LAST_ANSWER, sizeof LAST_ANSWER - 1);
        return false;
    }
    return answer(c, ANSWER, sizeof ANSWER - 1);
}

/* Read a value behind a name, in a head or in a handoff; NULL if it is not there. */
static const char *find(const char *text, size_t size, const char *name, size_t name_size)
{
    const char *found = memmem(text, size, name, name_size);
    return found ? found + name_size : NULL;
}

#define FIND(text, size, name) find(text, size, name, sizeof name - 1)

static request read_head(const char *head, size_t size)
{
    const char *length = FIND(head, size, "ontent-Length: ");
    if (length == NULL)
        length = FIND(head, size, "ontent-length: ");
    return (request){
        .closes = FIND(head, size, "onnection: close") != NULL,
        .upgrades = FIND(head, size, "pgrade: websocket") != NULL,
        .is_post = memcmp(head, "POST", 4) == 0,
        .bulk = memcmp(head, "GET /bulk/", 10) == 0 ? atoll(head + 10) : 0,
        .length = length ? atoll(length) : 0,
    };
}

static request read_handoff(const char *pairs, size_t size)
{
    const char *bulk = FIND(pairs, size, "REQUEST_URI\0/bulk/");
    const char *length = FIND(pairs, size, "HTTP_CONTENT_LENGTH\0");
    return (request){
        .closes = FIND(pairs, size, "HTTP_CONNECTION\0close") != NULL,
        .upgrades = FIND(pairs, size, "HTTP_UPGRADE\0websocket") != NULL,
        .is_post = FIND(pairs, size, "REQUEST_METHOD\0POST") != NULL,
        .bulk = bulk ? atoll(bulk) : 0,
        .length = length ? atoll(length) : 0,
    };
}

static bool drain(connection *c)
{
    while (c->to_drain > 0) {
        size_t size = c->to_drain < CHUNK ? c->to_drain : CHUNK;
        ssize_t count = recv(c->fd, chunk, size, MSG_DONTWAIT);
        if (count <= 0)
            return count < 0 && errno == EAGAIN;
        c->to_drain -= count;
    }
    return answer(c, ANSWER, sizeof ANSWER - 1);
}

static bool read_requests(connection *c)
{
    ssize_t count = recv(c->fd, c->buffer + c->size, ROOM - c->size, MSG_DONTWAIT);
    if (count <= 0)
        return count < 0 && errno == EAGAIN;
    c->size += count;
    char *end;
    while (c->size > 4 && (end = memmem(c->buffer, c->size, "\r\n\r\n", 4))) {
        size_t size = end + 4 - c->buffer;
        request r = read_head(c->buffer, size);
        if (!respond(c, &r))
            return false;
        if (c->is_upgraded)
            return true;
        c->size -= size;
        memmove(c->buffer, c->buffer + size, c->size);
        if (c->to_drain) { /* what came with the head is of the body */
            c->to_drain -= c->size;
            c->size = 0;
            return c->to_drain > 0 || answer(c, ANSWER, sizeof ANSWER - 1);
        }
    }
    return c->size < ROOM;
}

static bool is_still_there(connection *c)
{
    ssize_t count = recv(c->fd, chunk, CHUNK, MSG_DONTWAIT);
    return count > 0 || (count < 0 && errno == EAGAIN);
}

static bool serve(connection *c)
{
    if (c->is_upgraded)
        return is_still_there(c);
    if (c->waits_for == EPOLLOUT)
        return pump(c);
    return c->to_drain > 0 ? drain(c) : read_requests(c);
}

/* Take over a client. Reading the head is the acknowledgement; one read takes all of it. */
static void take_over(connection *gate)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    struct iovec vector = {chunk, sizeof chunk};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t size = recvmsg(gate->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && errno == EAGAIN) {
        wait_for(gate, EPOLLIN);
        return;
    }
    struct cmsghdr *header = size > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header != NULL) {
        int fd;
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        connection *c = new_connection(fd, HTTP);
        request r = read_handoff(chunk, size);
        if (respond(c, &r))
            wait_for(c, c->to_send ? EPOLLOUT : EPOLLIN);
        else
            drop(c);
    }
    if (size > 0 && FIND(chunk, size, "KTLSGATE_CONNECTION\0kept")) {
        if (answer(gate, "\6", 1)) { /* RECEIVED: the next one may follow */
            wait_for(gate, EPOLLIN);
            return;
        }
    }
    drop(gate);
}

static void accept_some(connection *listener)
{
    for (int i = 0; i < ACCEPTS; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (listener->kind == HANDOFF_LISTENER)
            take_over(new_connection(fd, HANDOFF)); /* mostly it is there already */
        else
            wait_for(new_connection(fd, HTTP), EPOLLIN);
    }
}

static void listen_at(const char *path, enum kind kind)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        die(path);
    }
    strcpy(address.sun_path, path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
        die(path);
    chmod(path, 0666); /* servers change their user */
    wait_for(new_connection(fd, kind), EPOLLIN);
}

int main(int count, char **words)
{
    struct rlimit files;
    struct epoll_event events[EVENTS];
    if (count != 4) {
        fputs("backend: see the top of backend.c\n", stderr);
        return 2;
    }
    alarm(atoi(words[3]));
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_at(words[1], HTTP_LISTENER);
    listen_at(words[2], HANDOFF_LISTENER);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            if (c->kind == HTTP_LISTENER || c->kind == HANDOFF_LISTENER)
                accept_some(c);
            else if (c->kind == HANDOFF)
                take_over(c);
            else if (!serve(c))
                drop(c);
        }
    }
}
