package cli

import (
	"sync"
	"time"

	"github.com/backstay-dev/backstay/internal/engine"
)

const (
	// relayed bounds the views that wait for a slow screen; older ones are
	// skipped, which loses no change: the next view shows the sum.
	relayed = 64
	// relayPatience is how long the end of a call waits for a screen that does
	// not take what is written (Ctrl-S, a full pipe).
	relayPatience = 3 * time.Second
)

// relay hands views to another watch from a goroutine of its own, so that a
// screen that blocks never blocks the deployment that it shows.
type relay struct {
	to   watch
	done chan struct{}

	mu     sync.Mutex
	wake   chan struct{}
	news   []func()
	views  int
	closed bool
}

var _ watch = (*relay)(nil)

func newRelay(to watch) *relay {
	r := &relay{to: to, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go r.run()
	return r
}

func (r *relay) run() {
	defer close(r.done)
	for range r.wake {
		for {
			r.mu.Lock()
			if len(r.news) == 0 {
				closed := r.closed
				r.mu.Unlock()
				if closed {
					r.to.close()
					return
				}
				break
			}
			next := r.news[0]
			r.news = r.news[1:]
			r.mu.Unlock()
			next()
		}
	}
}

func (r *relay) add(f func()) {
	r.mu.Lock()
	if !r.closed {
		r.news = append(r.news, f)
	}
	r.mu.Unlock()
	r.poke()
}

func (r *relay) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *relay) show(v engine.View) {
	r.mu.Lock()
	r.views++
	number := r.views
	r.mu.Unlock()
	r.add(func() {
		r.mu.Lock()
		late := r.views-number >= relayed
		r.mu.Unlock()
		if !late {
			r.to.show(v)
		}
	})
}

func (r *relay) say(format string, args ...any) { r.add(func() { r.to.say(format, args...) }) }

func (r *relay) output(step, line string) { r.add(func() { r.to.output(step, line) }) }

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.poke()
	patience := time.NewTimer(relayPatience)
	defer patience.Stop()
	select {
	case <-r.done:
	case <-patience.C:
	}
}
