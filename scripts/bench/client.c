/* See client.h. */
#define _GNU_SOURCE
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 65536

enum { AGAIN = -1, BROKEN = -2 }; /* what receive() and send_some() answer beside a count */

enum mode mode;
int port;
long long bulk = 1 << 20;
bool resumes, is_keyless, is_preparing, is_stopping;
const char *group = "X25519"; /* or the newest libraries would do more work */

int epoll_fd;
long long done, errors, resumed, held, moved;
float *latencies;
char first_error[160];

static SSL_CTX *context;
static int slot_index;
static char request[1024], first_request[1024], chunk[CHUNK];
static size_t request_size, first_size;
static long long started;
static size_t latency_room;

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

void *need(void *memory)
{
    if (memory == NULL) {
        fputs("tlsload: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void wait_for(slot *s, uint32_t events)
{
    if (s->waits_for == events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = s};
    epoll_ctl(epoll_fd, s->waits_for ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &event);
    s->waits_for = events;
}

static void finish(slot *s)
{
    if (s->ssl != NULL) {
        SSL_set_quiet_shutdown(s->ssl, 1); /* or the session would count as broken */
        SSL_shutdown(s->ssl);
        ERR_clear_error(); /* it minds a ticket half read, and others must not hear of it */
        SSL_free(s->ssl);
        s->ssl = NULL;
    }
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->waits_for = 0;
    s->state = FREE;
}

void fail(slot *s, const char *what)
{
    errors++;
    if (first_error[0] == 0) {
        unsigned long code = ERR_peek_error();
        const char *why = code ? ERR_reason_error_string(code) : errno ? strerror(errno) : NULL;
        snprintf(first_error, sizeof first_error, why ? "%s: %s" : "%s", what, why);
    }
    ERR_clear_error();
    if (s->state == HELD)
        held--;
    finish(s);
}

static void succeed(slot *s)
{
    if ((size_t)done == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 65536;
        latencies = need(realloc(latencies, latency_room * sizeof *latencies));
    }
    latencies[done++] = (now() - s->began) * 1e6;
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    slot *s = SSL_get_ex_data(ssl, slot_index);
    if (!resumes)
        return 0;
    SSL_SESSION_free(s->session);
    s->session = session;
    return 1;
}

void begin_request(slot *s)
{
    s->state = SENDING;
    s->sent_head = 0;
    s->sent_body = 0;
    s->head_size = 0;
    s->has_head = false;
    s->received = 0;
    s->expected = -1;
    if (mode != CONN)
        s->began = now();
}

/* Let OpenSSL read from now on only what it is given. */
static void read_nothing(slot *s)
{
    BIO *memory = need(BIO_new(BIO_s_mem()));
    BIO_set_mem_eof_return(memory, -1);
    SSL_set0_rbio(s->ssl, memory);
}

void start(slot *s)
{
    int one = 1;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    /* Many source addresses: one has too few ports for thousands of connections a second. */
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + started++ % 64);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    s->began = now();
    s->is_clear = false;
    s->record_size = 0;
    s->state = CONNECTING;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&from, sizeof from) ||
        (connect(s->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        fail(s, "connect");
        return;
    }
    s->ssl = need(SSL_new(context));
    SSL_set_ex_data(s->ssl, slot_index, s);
    SSL_set_fd(s->ssl, s->fd);
    if (mode == HALF)
        read_nothing(s); /* or it would go on if the answer is quick */
    SSL_set_connect_state(s->ssl);
    SSL_set_tlsext_host_name(s->ssl, "localhost");
    if (s->session != NULL)
        SSL_set_session(s->ssl, s->session);
    wait_for(s, EPOLLOUT);
}

/* Give OpenSSL a record that was read for it: a ticket. */
static void take_record(slot *s)
{
    char nothing[16];
    BIO_write(SSL_get_rbio(s->ssl), s->record, s->record_size);
    SSL_read(s->ssl, nothing, sizeof nothing);
    ERR_clear_error();
    s->record_size = 0;
}

/* Read clear text, passing over the records in front of it, exactly one at a time. */
static int receive_clear(slot *s, char *into, int room)
{
    for (;;) {
        size_t wanted = 1;
        if (s->record_size >= 5)
            wanted = 5 + (s->record[3] << 8 | s->record[4]);
        else if (s->record_size >= 1)
            wanted = 5;
        if (wanted > RECORD_SIZE)
            return BROKEN;
        char *to = s->is_clear ? into : (char *)s->record + s->record_size;
        ssize_t count = recv(s->fd, to, s->is_clear ? (size_t)room : wanted - s->record_size, 0);
        if (count < 0)
            return errno == EAGAIN ? AGAIN : BROKEN;
        if (count == 0 || s->is_clear)
            return count;
        s->record_size += count;
        if (s->record_size == 1 && (s->record[0] < 20 || s->record[0] > 24)) {
            s->is_clear = true;
            into[0] = (char)s->record[0];
            count = recv(s->fd, into + 1, room - 1, 0);
            return count < 0 ? 1 : 1 + count;
        }
        if (s->record_size > 5 && s->record_size == wanted)
            take_record(s);
    }
}

static int receive(slot *s, char *into, int room)
{
    if (is_keyless)
        return receive_clear(s, into, room);
    int count = SSL_read(s->ssl, into, room);
    if (count > 0)
        return count;
    switch (SSL_get_error(s->ssl, count)) {
    case SSL_ERROR_WANT_READ:
        return AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default: /* servers that close without close_notify are none of our business */
        if (ERR_peek_error() &&
            ERR_GET_REASON(ERR_peek_error()) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
            return BROKEN;
        ERR_clear_error();
        return 0;
    }
}

static int send_some(slot *s, const char *data, size_t size)
{
    if (is_keyless) {
        ssize_t count = send(s->fd, data, size, MSG_NOSIGNAL);
        return count >= 0 ? count : errno == EAGAIN ? AGAIN : BROKEN;
    }
    int count = SSL_write(s->ssl, data, size);
    if (count > 0)
        return count;
    int error = SSL_get_error(s->ssl, count);
    return error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? AGAIN : BROKEN;
}

static void hold(slot *s, uint32_t until)
{
    s->state = HELD;
    held++;
    wait_for(s, until);
}

static void shake(slot *s)
{
    if (mode == HALF && s->waits_for == EPOLLIN) { /* the server has said its part, we are silent */
        hold(s, EPOLLRDHUP);
        return;
    }
    int error, result = SSL_do_handshake(s->ssl);
    if (result == 1) {
        resumed += SSL_session_reused(s->ssl);
        if (is_keyless)
            read_nothing(s);
        begin_request(s);
        return;
    }
    error = SSL_get_error(s->ssl, result);
    if (error == SSL_ERROR_WANT_READ)
        wait_for(s, EPOLLIN);
    else if (error == SSL_ERROR_WANT_WRITE)
        wait_for(s, EPOLLOUT);
    else
        fail(s, "handshake");
}

/* Both return whether the slot can go on at once. */

static bool send_request(slot *s)
{
    size_t head_size = is_preparing ? first_size : request_size;
    bool is_body = s->sent_head == head_size;
    long long rest = is_body ? bulk - s->sent_body : (long long)(head_size - s->sent_head);
    if (rest == 0 || (is_body && (mode != UP || is_preparing))) {
        s->state = RECEIVING;
        /* Even if the answer is there already: others have their turn, and the end is seen. */
        wait_for(s, EPOLLIN);
        return false;
    }
    const char *head = is_preparing ? first_request : request;
    const char *from = is_body ? chunk : head + s->sent_head;
    int count = send_some(s, from, rest < CHUNK ? rest : CHUNK);
    if (count == AGAIN) {
        wait_for(s, EPOLLOUT);
        return false;
    }
    if (count == BROKEN) {
        fail(s, "send");
        return false;
    }
    if (is_body) {
        s->sent_body += count;
        moved += count;
    } else {
        s->sent_head += count;
    }
    return true;
}

/* Take what belongs to the head; return how much that was, AGAIN if the head is not whole. */
static int take_head(slot *s, const char *data, int size)
{
    size_t before = s->head_size, room = HEAD_SIZE - 1 - before;
    size_t taken = (size_t)size < room ? (size_t)size : room;
    memcpy(s->head + before, data, taken);
    s->head_size += taken;
    s->head[s->head_size] = 0;
    char *end = strstr(s->head, "\r\n\r\n");
    if (end == NULL)
        return AGAIN;
    s->has_head = true;
    char *length = strcasestr(s->head, "content-length:");
    s->expected = length != NULL && length < end ? atoll(length + 15) : -1;
    return end + 4 - s->head - before;
}

static bool end_answer(slot *s)
{
    if (is_preparing) {
        s->state = READY;
        return false;
    }
    succeed(s);
    if (mode != KEEP || is_stopping) {
        finish(s);
        return false;
    }
    begin_request(s);
    return true;
}

static bool receive_answer(slot *s)
{
    int count = receive(s, chunk, sizeof chunk), of_head = 0;
    if (count == AGAIN) {
        wait_for(s, EPOLLIN);
        return false;
    }
    bool is_whole = s->has_head && (s->expected < 0 || s->received >= s->expected);
    if (count == 0 && is_whole)
        return end_answer(s);
    if (count <= 0) {
        errno = count ? errno : 0;
        fail(s, count ? "receive" : "end of file");
        return false;
    }
    if (!s->has_head && (of_head = take_head(s, chunk, count)) == AGAIN) {
        if (s->head_size == HEAD_SIZE - 1)
            fail(s, "head too long");
        return s->state != FREE;
    }
    if (mode == IDLE) {
        hold(s, EPOLLIN);
        return false;
    }
    s->received += count - of_head;
    if (mode == DOWN && !is_preparing)
        moved += count - of_head;
    /* In conn the server closes: that is part of the connection, so wait for it. */
    if (mode != CONN && s->expected >= 0 && s->received >= s->expected)
        return end_answer(s);
    return true;
}

static void check_held(slot *s)
{
    int count = mode == HALF ? 0 : receive(s, chunk, sizeof chunk);
    if (count == 0)
        errno = 0;
    if (count == 0 || count == BROKEN)
        fail(s, "a held connection ended");
}

void step(slot *s)
{
    if (s->state == HELD) {
        check_held(s);
        return;
    }
    int error = 0;
    socklen_t size = sizeof error;
    if (s->state == CONNECTING) {
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        errno = error;
        if (error)
            fail(s, "connect");
        else
            s->state = SHAKING;
    }
    if (s->state == SHAKING)
        shake(s);
    for (bool goes_on = true; goes_on;)
        goes_on = s->state == SENDING     ? send_request(s)
                  : s->state == RECEIVING ? receive_answer(s)
                                          : false;
}

static void make_request(void)
{
    static const char browser[] =
        "Host: localhost\r\n"
        "User-Agent: tlsload/1 (X11; Linux x86_64)\r\n"
        "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n"
        "Accept-Language: en-US,en;q=0.5\r\n"
        "Cookie: session=0123456789abcdef0123456789abcdef\r\n";
    static const char *more[] = {
        [CONN] = "Connection: close\r\n",
        [KEEP] = "",
        [DOWN] = "",
        [UP] = "",
        [HALF] = "",
        [IDLE] = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"};
    char line[64] = "GET / HTTP/1.1\r\n", length[64] = "";
    if (mode == DOWN)
        snprintf(line, sizeof line, "GET /bulk/%lld HTTP/1.1\r\n", bulk);
    if (mode == UP) {
        snprintf(line, sizeof line, "POST /up HTTP/1.1\r\n");
        snprintf(length, sizeof length, "Content-Length: %lld\r\n", bulk);
    }
    request_size = snprintf(request, sizeof request, "%s%s%s%s\r\n", line, browser, length,
                            more[mode]);
    first_size = snprintf(first_request, sizeof first_request, "GET / HTTP/1.1\r\n%s\r\n", browser);
}

static void make_context(void)
{
    context = need(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
    if (!SSL_CTX_set1_groups_list(context, group)) {
        fprintf(stderr, "tlsload: no group %s in %s\n", group, OpenSSL_version(OPENSSL_VERSION));
        exit(1);
    }
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    slot_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

void make_client(void)
{
    make_context();
    make_request();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
}
