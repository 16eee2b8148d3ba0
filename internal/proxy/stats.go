package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

const (
	sliceLength = time.Second
	// userWindow is how long one user's bad outcomes count as one.
	userWindow = 5 * time.Minute
	maxUsers   = 1 << 16
)

// The outcomes as indices into a slice's counters, in the order of wire.Outcomes.
const (
	isOK = iota
	isClientError
	isServerError
	isTimedOut
	isUnreachable
	isBroken
	isShed
	isCanceled
	outcomes = isCanceled + 1 // Late is what is left over
)

// slice counts the requests to one side that started in one piece of time.
// Counters only go up, and are read once, when the slice becomes final; what
// is counted after that is lost on purpose.
type slice struct {
	revision uint64
	share    int
	start    time.Duration // since the proxy's base
	until    atomic.Int64  // its end; cut makes it earlier

	requests atomic.Uint64
	ended    [outcomes]atomic.Uint64
	flowing  [outcomes]atomic.Int64 // responses under way whose header is known
	badUsers atomic.Uint64
	latency  [wire.Buckets]atomic.Uint32
}

// recorder keeps the statistics of one side of one route. begin, header and finish
// are the hot path: atomic additions only, but for the first request of a slice.
type recorder struct {
	route, side string
	base        time.Time

	current atomic.Pointer[slice]

	mu       sync.Mutex
	waiting  []*slice // ended, not final yet
	revision uint64
	share    int
	sticky   bool // users stay on a side
	settle   time.Duration
	total    tally // of what is final
	users    map[uint64]time.Duration
}

// tally is what a recorder has counted since the proxy started.
type tally struct {
	requests uint64
	outcomes map[wire.Outcome]uint64
	latency  wire.Histogram
}

func noOutcomes() map[wire.Outcome]uint64 { return make(map[wire.Outcome]uint64) }

func newRecorder(route, side string, base time.Time) *recorder {
	return &recorder{route: route, side: side, base: base, total: tally{outcomes: noOutcomes()}}
}

// begin counts a request that starts now and returns the slice that it belongs to.
func (r *recorder) begin(now time.Duration) *slice {
	s := r.current.Load()
	if s == nil || now >= s.end() {
		s = r.roll(now)
	}
	s.requests.Add(1)
	return s
}

// forget takes back a begin: the request is counted elsewhere.
func (s *slice) forget() { s.requests.Add(^uint64(0)) }

// header counts a response that will take as long as it takes: its outcome so
// far, and its latency, which is the time to its header.
func (s *slice) header(outcome int, latency time.Duration) {
	s.flowing[outcome].Add(1)
	s.latency[wire.BucketOf(latency)].Add(1)
}

// finish counts the outcome of a request.
func (s *slice) finish(outcome int, latency time.Duration) {
	s.ended[outcome].Add(1)
	s.latency[wire.BucketOf(latency)].Add(1)
}

// finishFlow counts the outcome of a request whose header was counted.
func (s *slice) finishFlow(was, outcome int) {
	s.flowing[was].Add(-1)
	s.ended[outcome].Add(1)
}

// bad counts a bad outcome for the users' count.
func (r *recorder) bad(s *slice, user uint64, now time.Duration) {
	if user == 0 || r.firstOf(user, now) {
		s.badUsers.Add(1)
	}
}

// firstOf reports whether the user had no bad outcome for a while.
func (r *recorder) firstOf(user uint64, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.sticky {
		return true
	}
	if at, ok := r.users[user]; ok && now-at < userWindow {
		return false
	}
	if r.users == nil {
		r.users = map[uint64]time.Duration{}
	}
	if len(r.users) >= maxUsers {
		for u, at := range r.users {
			if now-at >= userWindow {
				delete(r.users, u)
			}
		}
	}
	if len(r.users) < maxUsers {
		r.users[user] = now
	}
	return true
}

// roll ends the current slice, which time has passed, and begins the next.
func (r *recorder) roll(now time.Duration) *slice {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.current.Load(); s != nil && now < s.end() {
		return s // another request was first
	}
	return r.next(now)
}

// next begins a slice at now that ends with the second; mu is held.
func (r *recorder) next(now time.Duration) *slice {
	if s := r.current.Load(); s != nil {
		r.waiting = append(r.waiting, s)
	}
	start := now.Truncate(sliceLength)
	end := start + sliceLength
	if n := len(r.waiting); n > 0 && r.waiting[n-1].end() > start {
		start = r.waiting[n-1].end() // cut earlier in this second
	}
	return r.begins(start, end)
}

func (r *recorder) begins(start, end time.Duration) *slice {
	s := &slice{revision: r.revision, share: r.share, start: start}
	s.until.Store(int64(end))
	r.current.Store(s)
	return s
}

func (s *slice) end() time.Duration { return time.Duration(s.until.Load()) }

// cut ends the current slice early: what comes after is under other weights.
func (r *recorder) cut(now time.Duration, revision uint64, share int, settings wire.Settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revision, r.share = revision, share
	r.settle = settings.Settle.Std()
	r.sticky = settings.Affinity != nil || settings.Bucket != nil
	if s := r.current.Load(); s != nil {
		if now >= s.end() {
			return // over already; the next begins as a new one
		}
		rest := r.begins(max(now, s.start), s.end())
		s.until.Store(int64(rest.start))
		r.waiting = append(r.waiting, s)
	}
}

// final takes out the slices that are final at now, oldest first.
func (r *recorder) final(now time.Duration) (out []wire.Block) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.current.Load(); s != nil && now >= s.end()+r.settle {
		r.current.Store(nil)
		r.waiting = append(r.waiting, s)
	}
	for len(r.waiting) > 0 && now >= r.waiting[0].end()+r.settle {
		s := r.waiting[0]
		r.waiting = slices.Delete(r.waiting, 0, 1)
		b := r.block(s)
		if b.Requests == 0 {
			continue
		}
		r.total.requests += b.Requests
		for o, n := range b.Outcomes {
			r.total.outcomes[o] += n
		}
		r.total.latency = r.total.latency.Merge(b.Latency)
		out = append(out, b)
	}
	return out
}

// idle reports whether nothing is left to become final.
func (r *recorder) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current.Load() == nil && len(r.waiting) == 0
}

// block reads a slice. What has no outcome is late, and slower than all.
func (r *recorder) block(s *slice) wire.Block {
	b := wire.Block{
		Route: r.route, Side: r.side, Revision: s.revision, Share: s.share,
		Start: r.base.Add(s.start).UTC(), End: r.base.Add(s.end()).UTC(),
		Requests: s.requests.Load(), Outcomes: noOutcomes(), BadUsers: s.badUsers.Load(),
	}
	known := uint64(0)
	for i, o := range wire.Outcomes()[:outcomes] {
		if n := s.ended[i].Load() + uint64(max(0, s.flowing[i].Load())); n > 0 {
			b.Outcomes[o] = n
			known += n
		}
	}
	late := b.Requests - min(known, b.Requests)
	timed := uint64(0)
	for i := range s.latency {
		if n := uint64(s.latency[i].Load()); n > 0 {
			b.Latency = append(b.Latency, wire.Count{uint64(i), n})
			timed += n
		}
	}
	if late > 0 {
		b.Outcomes[wire.Late] = late
		b.BadUsers += late
	}
	if rest := b.Requests - min(timed, b.Requests); rest > 0 {
		slowest := wire.Histogram{{uint64(wire.BucketOf(r.settle)), rest}} //nolint:gosec // an index
		b.Latency = b.Latency.Merge(slowest)
	}
	return b
}

// sum is everything counted so far, final or not.
func (r *recorder) sum() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := tally{requests: r.total.requests, outcomes: noOutcomes(), latency: r.total.latency}
	for o, n := range r.total.outcomes {
		t.outcomes[o] = n
	}
	open := slices.Clone(r.waiting)
	if s := r.current.Load(); s != nil {
		open = append(open, s)
	}
	for _, s := range open {
		t.requests += s.requests.Load()
		for i, o := range wire.Outcomes()[:outcomes] {
			if n := s.ended[i].Load(); n > 0 {
				t.outcomes[o] += n
			}
		}
		var h wire.Histogram
		for i := range s.latency {
			if n := uint64(s.latency[i].Load()); n > 0 {
				h = append(h, wire.Count{uint64(i), n})
			}
		}
		t.latency = t.latency.Merge(h)
	}
	return t
}
