/* The floor of scripts/bench: what the gate's path costs with nothing around it.
 *
 *   floor PORT CERTIFICATE KEY HANDOFF_PATH
 *
 * Accept on 127.0.0.1, TLS 1.3 handshake, one request's head, a netstring of SCGI names with the
 * client's descriptor to a new connection on HANDOFF_PATH, close. No routes, no deadlines, no log,
 * no waiting until the backend has read it, and no kernel gets keys: behind the handshake client and
 * backend speak IN CLEAR. It is for measuring, never for serving.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EVENTS 256
#define ROOM 8192      /* of a request's head */
#define PAIRS 3 * ROOM /* of the names made of it, of which the shortest, ":\r\n", grows most */

typedef struct client {
    int fd;
    bool is_shaken;
    struct sockaddr_in from;
    SSL *ssl;
} client;

typedef struct text {
    const char *at;
    size_t size;
} text;

static int epoll_fd, listener;
static char port[8];
static SSL_CTX *context;
static struct sockaddr_un backend = {.sun_family = AF_UNIX};

static void die(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void drop(client *c)
{
    if (c->ssl != NULL) {
        SSL_set_quiet_shutdown(c->ssl, 1); /* or the session would count as broken */
        SSL_shutdown(c->ssl);
        ERR_clear_error();
        SSL_free(c->ssl);
    }
    close(c->fd);
    free(c);
}

static char *put(char *to, const char *name, text value)
{
    to = stpcpy(to, name) + 1;
    memcpy(to, value.at, value.size);
    to[value.size] = 0;
    return to + value.size + 1;
}

static char *put_string(char *to, const char *name, const char *value)
{
    return put(to, name, (text){value, strlen(value)});
}

static char *put_header(char *to, text line)
{
    const char *colon = memchr(line.at, ':', line.size), *end = line.at + line.size;
    if (colon == NULL)
        return to;
    to = stpcpy(to, "HTTP_");
    for (const char *from = line.at; from < colon; from++)
        *to++ = *from == '-' ? '_' : (char)toupper((unsigned char)*from);
    *to++ = 0;
    for (colon++; colon < end && *colon == ' ';)
        colon++;
    to = mempcpy(to, colon, end - colon);
    *to = 0;
    return to + 1;
}

static text take_until(text *rest, const char *mark)
{
    char *found = memmem(rest->at, rest->size, mark, strlen(mark));
    size_t size = found ? (size_t)(found - rest->at) : rest->size;
    text taken = {rest->at, size};
    size += found ? strlen(mark) : 0;
    rest->at += size;
    rest->size -= size;
    return taken;
}

/* The names that the gate tells of a connection, in its order. */
static size_t write_pairs(char *pairs, const client *c, text head)
{
    char address[INET_ADDRSTRLEN], from_port[8], *to = pairs;
    text line = take_until(&head, "\r\n");
    text method = take_until(&line, " "), target = take_until(&line, " "), path = target;
    take_until(&path, "?");
    inet_ntop(AF_INET, &c->from.sin_addr, address, sizeof address);
    snprintf(from_port, sizeof from_port, "%d", ntohs(c->from.sin_port));
    to = put_string(to, "CONTENT_LENGTH", "0");
    to = put_string(to, "SCGI", "1+fd_pass");
    to = put_string(to, "HTTPS", "on");
    to = put_string(to, "KTLS_RX", "1");
    to = put_string(to, "REMOTE_ADDR", address);
    to = put_string(to, "REMOTE_PORT", from_port);
    to = put(to, "REQUEST_METHOD", method);
    to = put(to, "REQUEST_URI", target);
    to = put_string(to, "SERVER_ADDR", "127.0.0.1");
    to = put_string(to, "SERVER_PORT", port);
    to = put(to, "QUERY_STRING", path);
    to = put(to, "SERVER_PROTOCOL", line);
    to = put_string(to, "SERVER_NAME", "localhost");
    to = put_string(to, "REQUEST_SCHEME", "https");
    to = put_string(to, "SSL_PROTOCOL", SSL_get_version(c->ssl));
    to = put_string(to, "SSL_CIPHER", SSL_get_cipher_name(c->ssl));
    to = put_string(to, "SSL_TLS_SNI", "localhost");
    to = put_string(to, "SSL_ALPN", "");
    to = put_string(to, "SSL_SESSION_RESUMED",
                    SSL_session_reused(c->ssl) ? "Resumed" : "Initial");
    to = put_string(to, "SSL_CLIENT_VERIFY", "NONE");
    to = put_string(to, "KTLSGATE", "1");
    to = put_string(to, "KTLSGATE_MODE", "both");
    to = put_string(to, "KTLSGATE_KEEPALIVE", "own");
    while (head.size > 2)
        to = put_header(to, take_until(&head, "\r\n"));
    return to - pairs;
}

static void hand_over(client *c, text head)
{
    static char pairs[PAIRS];
    char length[16];
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    size_t size = write_pairs(pairs, c, head);
    struct iovec parts[] = {{length, snprintf(length, sizeof length, "%zu:", size)},
                            {pairs, size},
                            {",", 1}};
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = 3,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &c->fd, sizeof(int));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&backend, sizeof backend))
        die("connect to the backend");
    /* Whoever holds it too would keep it in our epoll set. */
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    if (sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
        perror("sendmsg");
    close(fd);
}

/* Look at the head, and take exactly it: what follows is the backend's. */
static bool read_head(client *c)
{
    static char head[ROOM];
    ssize_t size = recv(c->fd, head, sizeof head, MSG_PEEK);
    if (size <= 0)
        return size < 0 && errno == EAGAIN;
    char *end = memmem(head, size, "\r\n\r\n", 4);
    if (end == NULL)
        return size < ROOM;
    size = end + 4 - head;
    if (recv(c->fd, head, size, 0) == size)
        hand_over(c, (text){head, size});
    return false;
}

/* Answer whether the connection is still ours. */
static bool serve(client *c)
{
    if (!c->is_shaken) {
        int result = SSL_do_handshake(c->ssl);
        if (result != 1)
            return SSL_get_error(c->ssl, result) == SSL_ERROR_WANT_READ;
        c->is_shaken = true;
    }
    return read_head(c);
}

static void accept_all(void)
{
    struct sockaddr_in from;
    for (socklen_t size = sizeof from;; size = sizeof from) {
        int fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        client *c = calloc(1, sizeof *c);
        if (c == NULL)
            die("memory");
        *c = (client){.fd = fd, .from = from, .ssl = SSL_new(context)};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (c->ssl == NULL || !SSL_set_fd(c->ssl, fd) ||
            epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
            drop(c);
            continue;
        }
        SSL_set_accept_state(c->ssl);
    }
}

static void make_context(const char *certificate, const char *key)
{
    context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        die("certificate");
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* tickets hold everything */
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
}

static void listen_on_loopback(void)
{
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* those accepted inherit it */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    struct epoll_event event = {.events = EPOLLIN};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event))
        die("epoll_ctl");
}

int main(int count, char **words)
{
    struct rlimit files;
    struct epoll_event events[EVENTS];
    if (count != 5 || strlen(words[1]) >= sizeof port ||
        strlen(words[4]) >= sizeof backend.sun_path) {
        fputs("floor: see the top of gate.c\n", stderr);
        return 2;
    }
    strcpy(port, words[1]);
    strcpy(backend.sun_path, words[4]);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    make_context(words[2], words[3]);
    listen_on_loopback();
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.ptr == NULL)
                accept_all();
            else if (!serve(events[i].data.ptr))
                drop(events[i].data.ptr);
    }
}
