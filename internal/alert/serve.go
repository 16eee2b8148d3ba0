package alert

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
)

// Bounds of connections.
const (
	mostConns   = 128
	mostFromOne = 32 // address
	headWithin  = 5 * time.Second
	readWithin  = 10 * time.Second // the whole request
	writeWithin = readWithin + answerWithin + 5*time.Second
	idleWithin  = 30 * time.Second
	maxHead     = 16 << 10
	drain       = 10 * time.Second
)

// Server listens for webhooks.
type Server struct {
	Listen []string // addresses; at least one
	// Cert and Key are files of a certificate and its key: TLS is served. They are
	// read for every connection, so that new ones count at once.
	Cert, Key string
	Handler   *Handler
	Log       *slog.Logger
	// Serving is called once, with the addresses.
	Serving func(addresses []string)

	head, read time.Duration // tests only; zero: headWithin, readWithin
}

// Run serves until ctx ends, and answers what is under way then.
func (s Server) Run(ctx context.Context) (err error) {
	secure, err := s.secure()
	if err != nil {
		return err
	}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // closed by the server already, but on errors
		}
	}()
	var addresses []string
	count := &crowd{of: map[string]int{}}
	for _, address := range s.Listen {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return &backstay.Error{Class: backstay.Permanent, Op: "listen at", Subject: address, Err: err, Hint: "give another address with --listen"}
		}
		addresses = append(addresses, l.Addr().String())
		l = &door{l, count}
		if secure != nil {
			l = tls.NewListener(l, secure)
		}
		listeners = append(listeners, l)
	}
	server := &http.Server{
		Handler: s.Handler, ReadHeaderTimeout: cmp.Or(s.head, headWithin), ReadTimeout: cmp.Or(s.read, readWithin), WriteTimeout: writeWithin, IdleTimeout: idleWithin,
		MaxHeaderBytes: maxHead, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() { failed <- server.Serve(l) })
	}
	if s.Serving != nil {
		s.Serving(addresses)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve webhooks: %w", err)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err = errors.Join(err, server.Shutdown(ending))
	s.Handler.Close(ending)
	return err
}

// secure is the configuration of TLS; nil without a certificate.
func (s Server) secure() (*tls.Config, error) {
	if s.Cert == "" && s.Key == "" {
		return nil, nil //nolint:nilnil // no TLS
	}
	load := func() (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		return &c, err
	}
	if _, err := load(); err != nil {
		return nil, &backstay.RefusedError{What: "certificate", Err: err, Hint: "--cert and --cert-key are PEM files of one pair"}
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
	}, nil
}

// crowd counts open connections.
type crowd struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by address
}

func (c *crowd) enter(from string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= mostConns || c.of[from] >= mostFromOne {
		return false
	}
	c.all++
	c.of[from]++
	return true
}

func (c *crowd) leave(from string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.of[from]--; c.of[from] == 0 {
		delete(c.of, from)
	}
}

// door is a listener that turns away whom the crowd has no room for.
type door struct {
	net.Listener
	crowd *crowd
}

// Accept waits for a connection that there is room for.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, _, err := net.SplitHostPort(conn.RemoteAddr().String())
		if err == nil && d.crowd.enter(from) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { d.crowd.leave(from) })}, nil
		}
		_ = conn.Close() // turned away
	}
}

// guest is a connection that is counted until it is closed.
type guest struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
