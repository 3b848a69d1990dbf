package main

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Conn is a client's connection; the kernel, or the gate, does its TLS.
type Conn struct {
	net.Conn // the descriptor: output, and but for KTLS_RX=0 input
	Environ  map[string]string
	source   net.Conn // where input comes from
	input    io.Reader
	goodbye  sync.Once
}

func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.input.Read(b)
	if errors.Is(err, syscall.EIO) { // a TLS control record, nearly always close_notify
		err = io.EOF
	}
	return n, err
}

// ReadFrom keeps sendfile: the TCPConn has it, and would not be found behind a Conn.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// RemoteAddr is the client's also where the descriptor is one end of a socketpair.
func (c *Conn) RemoteAddr() net.Addr {
	port, _ := strconv.Atoi(c.Environ["REMOTE_PORT"])
	return &net.TCPAddr{IP: net.ParseIP(c.Environ["REMOTE_ADDR"]), Port: port}
}

// SetReadDeadline is how net/http stops a read that waits, so it has to reach that read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.source.SetReadDeadline(t) }

// SetDeadline is both.
func (c *Conn) SetDeadline(t time.Time) error {
	c.source.SetReadDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite says goodbye: close_notify where the kernel encrypts, then FIN.
func (c *Conn) CloseWrite() (err error) {
	c.goodbye.Do(func() {
		tcp, isTCP := c.Conn.(*net.TCPConn)
		if isTCP && c.Environ["HTTPS"] == "on" {
			sendCloseNotify(tcp)
		}
		err = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	})
	return err
}

// Close ends it; with KTLS_RX=0 the Unix connection last, which tells the gate.
func (c *Conn) Close() error {
	c.CloseWrite()
	defer c.source.Close()
	return c.Conn.Close()
}

func sendCloseNotify(tcp *net.TCPConn) {
	oob := make([]byte, syscall.CmsgSpace(1))
	header := (*syscall.Cmsghdr)(unsafe.Pointer(&oob[0]))
	header.Level, header.Type = 282, 1 // SOL_TLS, TLS_SET_RECORD_TYPE
	header.SetLen(syscall.CmsgLen(1))
	oob[syscall.CmsgLen(0)] = 21 // alert
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	tcp.SetWriteDeadline(time.Now().Add(5 * time.Second))
	raw.Write(func(fd uintptr) bool { // while the send buffer is full: again when it is not
		flags := syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
		return syscall.Sendmsg(int(fd), []byte{1, 0}, oob, nil, flags) != syscall.EAGAIN
	})
}
