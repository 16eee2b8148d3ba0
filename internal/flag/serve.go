package flag

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
)

// Server is a feed and who reads it, as one process.
type Server struct {
	// Listen are the addresses; at least one.
	Listen []string
	// Dir is where the durable copy is; "" keeps none.
	Dir string
	// Open opens the ledger.
	Open func(ctx context.Context) (Source, error)
	// Every is how often the ledger is asked for changes; 0: DefaultEvery.
	Every   time.Duration
	Options Options // Closing is the server's own
	Log     *slog.Logger
	// Serving is called once with the addresses and how many flags there are.
	Serving func(addresses []string, flags int)
}

const (
	firstRead = 5 * time.Second  // for the ledger, before the copy has to do
	drain     = 10 * time.Second // for requests under way at the end
)

// Run serves until ctx ends. It begins when the flags were read, from the ledger
// or, where that does not answer, from the copy; without either it listens
// and answers that it is not ready.
func (s Server) Run(ctx context.Context) (err error) {
	if s.Every <= 0 {
		s.Every = DefaultEvery
	}
	feed, err := NewFeed(s.Dir, "", s.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, feed.Close()) }()
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // closed by the server already, but on errors
		}
	}()
	var addresses []string
	for _, address := range s.Listen {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return &backstay.Error{Class: backstay.Permanent, Op: "listen at", Subject: address, Err: err, Hint: "give another address with --listen"}
		}
		listeners, addresses = append(listeners, l), append(addresses, l.Addr().String())
	}
	var wg sync.WaitGroup
	following, stop := context.WithCancel(ctx)
	wg.Go(func() { feed.Follow(following, s.Every, s.Open) })
	defer wg.Wait()
	defer stop()
	s.await(ctx, feed)
	closing := make(chan struct{})
	s.Options.Closing = closing
	server := &http.Server{
		Handler: NewHandler(feed, s.Options), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() { failed <- server.Serve(l) })
	}
	if s.Serving != nil {
		s.Serving(addresses, feed.Set().Len())
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve flags: %w", err)
	}
	close(closing)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	return errors.Join(err, server.Shutdown(ending))
}

// await gives the ledger a moment to answer before the first client does without.
func (s Server) await(ctx context.Context, feed *Feed) {
	timer := time.NewTimer(firstRead)
	defer timer.Stop()
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for feed.Behind(time.Now()) < 0 {
		select {
		case <-tick.C:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
