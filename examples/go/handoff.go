package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Listener is a net.Listener of the connections that ktlsgate hands over.
type Listener struct{ *net.UnixListener }

// Accept waits for the next handoff. A gate sends it in one piece: one at a time will do.
func (l Listener) Accept() (net.Conn, error) {
	for {
		unix, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		conn, err := receive(unix)
		if err == nil {
			return conn, nil
		}
		unix.Close() // over an unread head: then the client is still the gate's
		log.Printf("refused a handoff: %v", err)
	}
}

// receive takes one handoff, and not a byte behind it: with KTLS_RX=0 that is input.
func receive(unix *net.UnixConn) (*Conn, error) {
	unix.SetReadDeadline(time.Now().Add(time.Second))
	first, oob, fds := make([]byte, 1), make([]byte, syscall.CmsgSpace(4*4)), []int{}
	_, size, flags, _, err := unix.ReadMsgUnix(first, oob) // with MSG_CMSG_CLOEXEC
	if messages, _ := syscall.ParseSocketControlMessage(oob[:size]); len(messages) == 1 {
		fds, _ = syscall.ParseUnixRights(&messages[0])
	}
	var file *os.File
	for _, fd := range fds {
		file = os.NewFile(uintptr(fd), "client")
		defer file.Close() // a surplus one, too; net.FileConn makes its own
	}
	if err != nil || len(fds) != 1 || flags&syscall.MSG_CTRUNC != 0 {
		return nil, fmt.Errorf("expected one descriptor on the first byte, got %d (%v)", len(fds), err)
	}
	environ, err := readHead(io.MultiReader(strings.NewReader(string(first)), unix))
	if err != nil {
		return nil, err
	}
	descriptor, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	source := descriptor
	if environ["KTLS_RX"] == "0" {
		source = unix
		unix.SetReadDeadline(time.Time{})
		unix.Write([]byte{6}) // RECEIVED: then a cut is an error, and no end of file
	} else {
		unix.Close()
	}
	input := io.MultiReader(strings.NewReader(requestHead(environ)), source)
	return &Conn{Conn: descriptor, Environ: environ, source: source, input: input}, nil
}

func readHead(r io.Reader) (map[string]string, error) {
	var size int
	if _, err := fmt.Fscanf(r, "%d:", &size); err != nil || size < 1 || size > 1<<20 {
		return nil, fmt.Errorf("expected the length of a netstring, got %d (%v)", size, err)
	}
	body := make([]byte, size+1)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	words, environ := strings.Split(string(body), "\x00"), map[string]string{}
	for i := 0; i+1 < len(words); i += 2 {
		environ[words[i]] = words[i+1]
	}
	if len(words)%2 == 0 || words[len(words)-1] != "," || environ["KTLSGATE"] != "1" {
		return nil, errors.New("expected pairs of name and value, KTLSGATE 1 among them, and a comma")
	}
	if _, isKept := environ["KTLSGATE_CONNECTION"]; isKept { // it waits for RECEIVED
		return nil, errors.New("expected kept_connections = 0 in the gate's configuration")
	}
	return environ, nil
}

// requestHead writes the head that the gate has read once more, for net/http to read.
func requestHead(environ map[string]string) string {
	if environ["KTLSGATE_KEEPALIVE"] == "single" { // a later request may be another route's
		environ["HTTP_CONNECTION"] = "close, upgrade" // and an upgrade is no request
	}
	head := fmt.Sprintf("%s %s %s\r\n", environ["REQUEST_METHOD"], environ["REQUEST_URI"], environ["SERVER_PROTOCOL"])
	for name, value := range environ {
		if strings.HasPrefix(name, "HTTP_") {
			head += strings.ReplaceAll(name[5:], "_", "-") + ": " + value + "\r\n"
		}
	}
	return head + "\r\n"
}
