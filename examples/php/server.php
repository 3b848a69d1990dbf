<?php
// A small server behind ktlsgate, with the extensions sockets and pcntl: php server.php SOCKET FILE
//
// It answers GET / with what it was told, and GET /file with FILE; each client has a process.
declare(strict_types=1);

require __DIR__ . '/handoff.php';

function answer(array $environ, Socket $client, string $request, string $path): bool
{
    [$method, $target, $version] = explode(' ', strtok($request, "\r\n")) + ['', '', ''];
    // Nobody here reads bodies, so a request that has one is its connection's last.
    $is_last = $version !== 'HTTP/1.1'
        || preg_match('/\r\n(connection:.*close|content-length: *[1-9]|transfer-encoding:)/i', $request);
    $text = "Hello {$environ['REMOTE_ADDR']}, this is GET $target by PHP, mode {$environ['KTLSGATE_MODE']}\n";
    [$status, $body] = match (true) {
        $method !== 'GET' => ['405 Method Not Allowed', "expected GET\n"],
        $target === '/file' => ['200 OK', file_get_contents($path)],
        default => ['200 OK', $text],
    };
    $end = $is_last ? "Connection: close\r\n" : '';
    write($client, "HTTP/1.1 $status\r\n{$end}Content-Length: " . strlen($body) . "\r\n\r\n$body");
    return !$is_last;
}

function serve(Socket $unix, string $path): void
{
    [$client, $environ] = receive($unix);
    $source = $client;
    if (($environ['KTLS_RX'] ?? '') === '0') {
        $source = $unix;
        socket_write($unix, "\x06"); // RECEIVED: then a cut is not told as an end
    } else {
        socket_close($unix);
    }
    for ($data = request_head($environ), $goes_on = true; $goes_on; $data = substr($data, $end + 4)) {
        while (($end = strpos($data, "\r\n\r\n")) === false) {
            $piece = read($source);
            if ($piece === '' || strlen($data) > 32768) {
                return;
            }
            $data .= $piece;
        }
        $goes_on = answer($environ, $client, substr($data, 0, $end + 2), $path);
    }
    socket_shutdown($client, 1);
    while (read($source) !== ''); // a close over unread input is a reset, which can destroy the answer
}

if ($argc !== 3) {
    exit("usage: php server.php SOCKET FILE\n");
}
umask(0117); // whoever may connect may give us connections: user and group
@unlink($argv[1]); // what a killed process left
$listener = socket_create(AF_UNIX, SOCK_STREAM, 0);
if (!socket_bind($listener, $argv[1]) || !socket_listen($listener, 128)) {
    exit(1);
}
pcntl_signal(SIGCHLD, SIG_IGN); // nobody waits for the processes
fwrite(STDERR, "taking handoffs at {$argv[1]}\n");
while ($unix = socket_accept($listener)) {
    if (pcntl_fork() === 0) {
        try {
            serve($unix, $argv[2]);
        } catch (RuntimeException $error) {
            fwrite(STDERR, "a connection failed: {$error->getMessage()}\n");
        }
        exit(0);
    }
    socket_close($unix);
}
