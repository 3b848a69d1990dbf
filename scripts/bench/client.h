/* One TLS client connection of the load generator: a state machine on one epoll descriptor. */
#ifndef CLIENT_H
#define CLIENT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAD_SIZE 2048
#define RECORD_SIZE 17000 /* of TLS: 16384 and what surrounds it */

enum mode { CONN, KEEP, DOWN, UP, IDLE, HALF };
enum state { FREE, CONNECTING, SHAKING, SENDING, RECEIVING, READY, HELD };

typedef struct slot {
    int fd;
    enum state state;
    uint32_t waits_for;
    SSL *ssl;
    SSL_SESSION *session;
    double began;         /* the operation: the connection in conn, the request in the others */
    size_t sent_head;
    long long sent_body;
    char head[HEAD_SIZE];
    size_t head_size;
    bool has_head;
    long long expected, received; /* of the body; expected -1: to the end */
    bool is_clear;                /* keyless: a first byte came that begins no record */
    unsigned char record[RECORD_SIZE];
    size_t record_size;
} slot;

/* What is asked for. */
extern enum mode mode;
extern int port;
extern long long bulk; /* bytes */
extern bool resumes, is_keyless;
extern const char *group; /* of the key exchange */

/* Where in the load we are: first requests are not counted, last ones end their connections. */
extern bool is_preparing, is_stopping;

/* What came of it. */
extern int epoll_fd;
extern long long done, errors, resumed, held, moved;
extern float *latencies; /* of what is done, in microseconds */
extern char first_error[160];

double now(void);
void *need(void *memory); /* or end the program */
void make_client(void);   /* before everything else, once the above is set */
void start(slot *s);
void begin_request(slot *s);
void step(slot *s);
void fail(slot *s, const char *what);

#endif
