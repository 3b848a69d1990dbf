// A net/http server behind ktlsgate: go run . SOCKET FILE
//
// It answers GET / with what it was told, and GET /file with FILE, by sendfile.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"syscall"
)

type environKey struct{}

func greet(w http.ResponseWriter, r *http.Request) {
	environ := r.Context().Value(environKey{}).(map[string]string)
	fmt.Fprintf(w, "Hello %s, this is %s %s by Go, mode %s\n",
		environ["REMOTE_ADDR"], r.Method, r.RequestURI, environ["KTLSGATE_MODE"])
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run . SOCKET FILE")
	}
	syscall.Umask(0o117)  // whoever may connect may give us connections: user and group
	os.Remove(os.Args[1]) // what a killed process left
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: os.Args[1], Net: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", greet)
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, os.Args[2]) })
	server := http.Server{ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, environKey{}, c.(*Conn).Environ)
	}}
	log.Printf("taking handoffs at %s", os.Args[1])
	log.Fatal(server.Serve(Listener{unix}))
}
