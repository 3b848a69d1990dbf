'use strict';

const { spawn } = require('node:child_process');

/**
 * Let an http.Server serve the connections that ktlsgate hands over at a path.
 *
 * Emits 'listening' on the server when they can come, and 'error' when they cannot any more.
 * On each socket: `environ`, all that the gate says.
 *
 * @param {import('node:http').Server} server whatever sits on it (express, ws) does not notice
 * @param {string} path of the Unix socket
 * @param {{python?: string}} options the Python that has the package ktlsgate
 * @returns {import('node:child_process').ChildProcess} disconnect() it to take no more of them
 */
function listen(server, path, { python = 'python3' } = {}) {
  const shim = spawn(python, ['-m', 'ktlsgate.backend.node_shim', '--socket', path], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  shim.on('message', ({ listening, environ, head }, socket) => {
    if (listening) {
      server.emit('listening');
    } else if (socket) {
      socket.environ = environ;
      socket.encrypted = environ.HTTPS === 'on'; // what express takes for req.secure
      // In the modes tx and relay the socket is one end of a pair.
      Object.defineProperty(socket, 'remoteAddress', { value: environ.REMOTE_ADDR });
      Object.defineProperty(socket, 'remotePort', { value: Number(environ.REMOTE_PORT) });
      socket.unshift(head, 'latin1'); // the gate has read it; the server reads it again
      server.emit('connection', socket);
    }
  });
  shim.on('error', (error) => server.emit('error', error));
  shim.on('exit', (code, signal) => {
    if (code !== 0) {
      server.emit('error', new Error(`the handoffs ended: ${signal || `status ${code}`}`));
    }
  });
  return shim;
}

module.exports = { listen };
