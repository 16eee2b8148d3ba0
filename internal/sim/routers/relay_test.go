package routers_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// fault is a way in which an exchange breaks.
type fault string

const (
	refuses fault = "refuses"      // closes the connection at once
	fails   fault = "fails"        // answers with an error and does nothing
	hangs   fault = "hangs"        // never answers, and does nothing
	loses   fault = "loses"        // does it, and closes the connection before it answers
	late    fault = "answers late" // does it, and never answers
	deaf    fault = "is deaf"      // says that it did what it did not
	garbles fault = "garbles"      // does it, and answers half of what it should
	drips   fault = "drips"        // does it, and answers a byte at a time
	floods  fault = "floods"       // does nothing, and answers without end
)

func faults() []fault {
	return []fault{refuses, fails, hangs, loses, late, deaf, garbles, drips, floods}
}

// talk is how a router is talked to: one exchange on one connection.
type talk struct {
	// read takes a request whole, and says whether it is to change something.
	read func(*bufio.Reader) (request []byte, changes bool, err error)
	// failure and done are answers: of an error, and of a change that is not made,
	// for which ask asks the router something.
	failure string
	done    func(ask func(string) []byte, request []byte) []byte
}

// relay stands between Backstay and a router's admin socket.
type relay struct {
	t      *testing.T
	socket string
	real   string
	talk   talk
	quit   chan struct{}

	mu     sync.Mutex
	seen   int // exchanges since reset
	broken int
	how    fault
	at     int // the exchange that breaks; 0: none
	on     bool
}

func startRelay(t *testing.T, real string, how talk) *relay {
	t.Helper()
	r := &relay{t: t, socket: filepath.Join(filepath.Dir(real), "relay.sock"), real: real, talk: how, quit: make(chan struct{})}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer conn.Close()
				r.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		close(r.quit)
		_ = l.Close()
		open.Wait()
	})
	return r
}

// breaks sets which exchange breaks, counted from now; on: and all after it.
func (r *relay) breaks(how fault, at int, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen, r.broken, r.how, r.at, r.on = 0, 0, how, at, on
}

// counts are the exchanges since breaks, and how many of them broke.
func (r *relay) counts() (seen, broken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen, r.broken
}

func (r *relay) next(changes bool) fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen++
	if r.at == 0 || r.seen < r.at || r.seen > r.at && !r.on || r.how == deaf && !changes {
		return ""
	}
	r.broken++
	return r.how
}

// forward sends a request to the router and returns its answer.
func (r *relay) forward(request []byte) []byte {
	conn, err := net.Dial("unix", r.real)
	if err != nil {
		return nil
	}
	defer conn.Close()
	if _, err := conn.Write(request); err != nil {
		return nil
	}
	answer, _ := io.ReadAll(conn)
	return answer
}

func (r *relay) serve(conn net.Conn) {
	request, changes, err := r.talk.read(bufio.NewReader(conn))
	if err != nil {
		return
	}
	write := func(answer []byte) { _, _ = conn.Write(answer) }
	switch r.next(changes) {
	case "":
		write(r.forward(request))
	case refuses:
	case fails:
		write([]byte(r.talk.failure))
	case hangs:
		r.until(conn)
	case loses:
		r.forward(request)
	case late:
		r.forward(request)
		r.until(conn)
	case deaf:
		write(r.talk.done(func(ask string) []byte { return r.forward([]byte(ask)) }, request))
	case garbles:
		answer := r.forward(request)
		write(answer[:len(answer)/2])
	case drips:
		answer := r.forward(request)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range answer {
			if _, err := conn.Write(answer[i : i+1]); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.quit:
				return
			}
		}
	case floods:
		block := bytes.Repeat([]byte("HTTP/1.1 200 OK\r\n"), 4096)
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
}

// until waits until the other side goes away.
func (r *relay) until(conn net.Conn) {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		close(gone)
	}()
	select {
	case <-gone:
	case <-r.quit:
	}
}

// spoken is HTTP as the proxy's admin socket speaks it.
func spoken() talk {
	return talk{
		read: func(in *bufio.Reader) ([]byte, bool, error) {
			req, err := http.ReadRequest(in)
			if err != nil {
				return nil, false, err
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return nil, false, err
			}
			text := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: proxy\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", req.Method, req.URL.RequestURI(), len(body), body)
			return text, req.Method == http.MethodPost, nil
		},
		failure: "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 43\r\n\r\n{\"code\":\"internal\",\"message\":\"on purpose\"}\n",
		done: func(ask func(string) []byte, _ []byte) []byte {
			return ask("GET /v1/routes/shop HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
		},
	}
}

// typed is HAProxy's runtime API: a line, and an answer until the connection ends.
func typed() talk {
	return talk{
		read: func(in *bufio.Reader) ([]byte, bool, error) {
			line, err := in.ReadBytes('\n')
			return line, !bytes.HasPrefix(line, []byte("show ")), err
		},
		failure: "Permission denied\n\n",
		done:    func(func(string) []byte, []byte) []byte { return []byte("\n") },
	}
}
