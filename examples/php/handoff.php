<?php
// Receives a handoff, and reads and writes the client's connection.
//
// PHP can neither send nor take TLS control records: it ends with FIN alone, and EIO is an end.
declare(strict_types=1);

const IDLE = 15; // seconds

/** Take one handoff, and not a byte behind it: with KTLS_RX=0 that is input. */
function receive(Socket $unix): array
{
    socket_set_option($unix, SOL_SOCKET, SO_RCVTIMEO, ['sec' => 5, 'usec' => 0]);
    $room = socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 4); // for more than one, to see a surplus
    $message = ['name' => [], 'buffer_size' => 1, 'controllen' => $room];
    $count = socket_recvmsg($unix, $message, MSG_CMSG_CLOEXEC);
    $sockets = $message['control'][0]['data'] ?? []; // PHP closes what is not kept
    if ($count !== 1 || count($sockets) !== 1 || $message['flags'] & MSG_CTRUNC) {
        throw new RuntimeException('expected one descriptor on the first byte');
    }
    for ($digits = $message['iov'][0]; !str_ends_with($digits, ':');) {
        $digits .= receive_exactly($unix, 1);
        if (!preg_match('/^\d{1,7}:?$/', $digits)) {
            throw new RuntimeException('expected the length of a netstring');
        }
    }
    $words = explode("\0", receive_exactly($unix, (int)$digits + 1));
    if (array_pop($words) !== ',' || count($words) % 2 !== 0) {
        throw new RuntimeException('expected pairs of name and value, and a comma');
    }
    $environ = [];
    foreach (array_chunk($words, 2) as [$name, $value]) {
        $environ[$name] = $value;
    }
    if (($environ['KTLSGATE'] ?? '') !== '1') {
        throw new RuntimeException('expected KTLSGATE 1');
    }
    if (isset($environ['KTLSGATE_CONNECTION'])) { // it waits for RECEIVED
        throw new RuntimeException('expected kept_connections = 0 in the gate');
    }
    return [$sockets[0], $environ];
}

function receive_exactly(Socket $socket, int $size): string
{
    for ($data = ''; strlen($data) < $size; $data .= $piece) {
        $piece = (string)socket_read($socket, $size - strlen($data));
        if ($piece === '') {
            throw new RuntimeException('expected the whole head');
        }
    }
    return $data;
}

/** The head that the gate has read, once more, so that all requests are read alike. */
function request_head(array $environ): string
{
    if ($environ['KTLSGATE_KEEPALIVE'] === 'single') { // a later request may be another route's
        $environ['HTTP_CONNECTION'] = 'close';
    }
    $head = "{$environ['REQUEST_METHOD']} {$environ['REQUEST_URI']} {$environ['SERVER_PROTOCOL']}\r\n";
    foreach ($environ as $name => $value) {
        if (str_starts_with($name, 'HTTP_')) {
            $head .= strtr(substr($name, 5), '_', '-') . ": $value\r\n";
        }
    }
    return "$head\r\n";
}

/** The descriptor is non-blocking, and that flag is shared: try, wait, try again. */
function wait(Socket $socket, bool $for_reading): void
{
    $read = $for_reading ? [$socket] : [];
    $write = $for_reading ? [] : [$socket];
    $none = [];
    if (socket_select($read, $write, $none, IDLE) !== 1) {
        throw new RuntimeException('the client is too slow');
    }
}

/** Read what is there; an empty string at the end, however it came. */
function read(Socket $source): string
{
    while (($data = @socket_read($source, 65536)) === false && socket_last_error($source) === SOCKET_EAGAIN) {
        wait($source, true);
    }
    return (string)$data; // EIO: a TLS control record, nearly always close_notify
}

function write(Socket $client, string $data): void
{
    for ($sent = 0; $sent < strlen($data); $sent += (int)$count) {
        $count = @socket_write($client, substr($data, $sent, 65536));
        if ($count === false && socket_last_error($client) !== SOCKET_EAGAIN) {
            throw new RuntimeException('the client is gone');
        }
        if ($count === false) {
            wait($client, false);
        }
    }
}
