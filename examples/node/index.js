// An http server behind ktlsgate: node index.js SOCKET FILE
//
// It answers GET / with what it was told, and GET /file with FILE. Where the package ws is
// installed, WebSocket messages come back.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const { pipeline } = require('node:stream');
const { listen } = require('./ktlsgate.js');

const [path, file] = process.argv.slice(2);
if (!file) {
  console.error('usage: node index.js SOCKET FILE');
  process.exit(2);
}

// An express app is such a function, too.
function app(request, response) {
  const { environ } = request.socket;
  if (request.method !== 'GET') {
    response.writeHead(405, { Connection: 'close' }).end('expected GET\n');
  } else if (request.url === '/file') {
    response.setHeader('Content-Length', fs.statSync(file).size);
    pipeline(fs.createReadStream(file), response, () => {}); // a client may leave early
  } else {
    const who = `${environ.REMOTE_ADDR}, this is ${request.method} ${request.url}`;
    response.end(`Hello ${who} by Node, mode ${environ.KTLSGATE_MODE}\n`);
  }
}

const server = http.createServer(app);
server.on('listening', () => console.error(`taking handoffs at ${path}`));
server.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});

try {
  const { WebSocketServer } = require('ws');
  new WebSocketServer({ server }).on('connection', (socket) => {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
} catch (error) {
  if (error.code !== 'MODULE_NOT_FOUND') throw error;
}

listen(server, path, { python: process.env.PYTHON || 'python3' }); // ends when we do
