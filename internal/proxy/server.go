package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/backstay-dev/backstay"
)

// RunOptions are what a proxy process needs besides its configuration.
type RunOptions struct {
	State  string          // directory of the durable state
	Admin  string          // path of the admin socket; "": admin.sock in State
	Stdout io.Writer       // for access_log: "-"
	Log    *slog.Logger    // of the proxy itself
	Reload <-chan struct{} // each value reads the certificates again; nil: never
	// Serving is told the addresses once all listeners are open.
	Serving func(addresses []string)
	Saved   func() // see Options.Saved
}

// Run serves until ctx ends, then drains: no new connections, requests in
// flight finish within the configured time. It returns nil after a clean drain
// and an error that says how many requests were cut otherwise.
func Run(ctx context.Context, c *Config, o RunOptions) (err error) {
	if len(c.Listen) == 0 {
		return &backstay.RefusedError{What: "configuration", Err: errors.New("there is nothing to listen at"), Hint: "add listen: [{address: 127.0.0.1:8080}], or give --listen 127.0.0.1:8080"}
	}
	trusted, err := c.trusted()
	if err != nil {
		return err
	}
	opts := Options{State: o.State, Routes: c.Routes, Trusted: trusted, Log: o.Log, Saved: o.Saved}
	if c.BackendCA != "" {
		pem, err := os.ReadFile(c.BackendCA)
		if err == nil {
			opts.Roots, err = poolOf(pem)
		}
		if err != nil {
			return fmt.Errorf("read backend_ca %s: %w", c.BackendCA, err)
		}
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer end()
	closeLog, err := openAccess(life, c, o, &opts, &tasks)
	if err != nil {
		return err
	}
	defer func() { end(); tasks.Wait(); err = errors.Join(err, closeLog()) }()
	p, err := New(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	s := &server{proxy: p, config: c, life: life, log: p.opts.Log, failed: make(chan error, 8)}
	defer s.close()
	if err := s.listen(ctx, c, o); err != nil {
		return err
	}
	if o.Serving != nil {
		o.Serving(p.addresses)
	}
	if err := s.wait(ctx, o.Reload); err != nil {
		return err
	}
	return s.drain(c.Drain.Std(), end)
}

// openAccess opens the access log, if there is one.
func openAccess(life context.Context, c *Config, o RunOptions, opts *Options, tasks *sync.WaitGroup) (closeLog func() error, err error) {
	to, closeLog := o.Stdout, func() error { return nil }
	switch c.Access {
	case "":
		return closeLog, nil
	case "-":
	default:
		f, err := os.OpenFile(c.Access, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open access_log: %w", err)
		}
		to, closeLog = f, f.Close
	}
	lines := newLineBuffer(to)
	tasks.Go(func() { lines.run(life) })
	opts.Access = slog.New(slog.NewJSONHandler(lines, nil))
	return closeLog, nil
}

// server is the listeners of one Run.
type server struct {
	proxy  *Proxy
	config *Config
	life   context.Context // of requests
	log    *slog.Logger
	certs  []*Certs
	public []*http.Server
	inside []*http.Server // admin socket and metrics
	tasks  sync.WaitGroup
	failed chan error
}

func (s *server) listen(ctx context.Context, c *Config, o RunOptions) error {
	admin := o.Admin
	if admin == "" {
		admin = filepath.Join(o.State, "admin.sock")
	}
	l, err := listenAdmin(ctx, admin)
	if err != nil {
		return err
	}
	s.inside = append(s.inside, s.serve(l, &http.Server{Handler: s.proxy.AdminHandler(), ReadHeaderTimeout: 10 * time.Second}))
	if c.Metrics != "" {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Metrics)
		if err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /metrics", s.proxy.serveMetrics)
		s.inside = append(s.inside, s.serve(l, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}))
	}
	for _, at := range c.Listen {
		if err := s.listenPublic(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) listenPublic(ctx context.Context, at Listen) error {
	var certs *Certs
	if len(at.TLS) > 0 {
		var err error
		if certs, err = LoadCerts(at.TLS); err != nil {
			return err
		}
		s.certs = append(s.certs, certs)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.proxy.addresses = append(s.proxy.addresses, l.Addr().String())
	if n := s.config.Limits.Connections; n > 0 {
		open, shut := context.WithCancel(s.life)
		l = &boundedListener{Listener: l, slots: semaphore.NewWeighted(int64(n)), open: open, shut: shut}
	}
	if at.ProxyProtocol {
		l = &announced{Listener: l, trusts: s.proxy.trusts}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if certs != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	limits := s.config.Limits
	srv := &http.Server{
		Handler: s.proxy, Protocols: protocols,
		ReadHeaderTimeout: limits.HeaderWait.Std(), IdleTimeout: limits.Idle.Std(), MaxHeaderBytes: limits.HeaderBytes,
		BaseContext: func(net.Listener) context.Context { return s.life },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 250},
	}
	if certs != nil {
		srv.TLSConfig = certs.config()
	}
	s.public = append(s.public, s.serve(l, srv))
	return nil
}

// serve runs one server in the background.
func (s *server) serve(l net.Listener, srv *http.Server) *http.Server {
	s.tasks.Go(func() {
		var err error
		if srv.TLSConfig != nil {
			err = srv.ServeTLS(l, "", "")
		} else {
			err = srv.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
	})
	return srv
}

// wait is the proxy's life: until ctx ends or a listener fails.
func (s *server) wait(ctx context.Context, reload <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		case <-reload:
			s.reload()
		}
	}
}

func (s *server) reload() {
	for _, c := range s.certs {
		if err := c.Reload(time.Now()); err != nil {
			s.log.Error("certificates stay as they are", "error", err)
			return
		}
	}
	s.log.Info("certificates were read again", "listeners", len(s.certs))
}

// drain lets requests in flight finish. What is not done after within is cut.
func (s *server) drain(within time.Duration, cut func()) error {
	s.proxy.draining.Store(true)
	s.log.Info("draining", "in_flight", s.proxy.requests.Load(), "within", within)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), within)
	defer cancel()
	var closing sync.WaitGroup
	for _, srv := range s.public {
		closing.Go(func() { _ = srv.Shutdown(ctx) }) // what is left is counted below
	}
	closing.Wait()
	// Upgraded connections are no server's any more, but their requests last.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.proxy.requests.Load() > 0 && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	left := s.proxy.requests.Load()
	if left == 0 {
		return nil
	}
	cut()
	return &backstay.Error{Op: "drain", Err: fmt.Errorf("%d requests were still in flight after %s and were cut", left, within), Hint: "long streams and WebSockets need a longer drain: in the configuration"}
}

func (s *server) close() {
	for _, srv := range append(s.public, s.inside...) {
		_ = srv.Close() // nothing is left to be done about it
	}
	s.tasks.Wait()
}

// listenAdmin opens the admin socket with mode 0600 from the first moment on. A
// socket that a dead process left is replaced; one that answers is not.
func listenAdmin(ctx context.Context, path string) (net.Listener, error) {
	hint := "give another path with --admin"
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, &backstay.Error{Op: "listen at", Subject: path, Err: errors.New("it is there and no socket"), Hint: hint}
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return nil, errors.Join(&backstay.Error{Op: "listen at", Subject: path, Err: errors.New("another proxy answers there"), Hint: hint}, conn.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replace the admin socket: %w", err)
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if ctlErr := raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, &backstay.Error{Op: "listen at", Subject: path, Err: err, Hint: hint + " (a socket's path has at most 107 bytes)"}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the admin socket: %w", err), l.Close())
	}
	return l, nil
}

// boundedListener accepts so many connections at once; the rest wait in the
// system's queue.
type boundedListener struct {
	net.Listener
	slots *semaphore.Weighted
	open  context.Context // until Close
	shut  context.CancelFunc
}

func (l *boundedListener) Close() error {
	l.shut()
	return l.Listener.Close()
}

func (l *boundedListener) Accept() (net.Conn, error) {
	if err := l.slots.Acquire(l.open, 1); err != nil {
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		l.slots.Release(1)
		return nil, err
	}
	return &boundedConn{Conn: c, release: sync.OnceFunc(func() { l.slots.Release(1) })}, nil
}

type boundedConn struct {
	net.Conn
	release func()
}

func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
