package exposure

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/flag"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

const (
	key  = backstay.Key("flag:new-checkout")
	text = `backstay: v1
release: shop
gates:
  errors: {run: ./errors.sh, every: 1ms, failures: 1}
steps:
  - flag: {key: new-checkout, through: [10%, 50%, 100%], gates: [errors]}
`
)

// errCrash ends the engine at a point, as a kill would.
var errCrash = errors.New("killed")

// shop is one ledger with a flag, and a release that exposes it.
type shop struct {
	t      *testing.T
	dir    string
	store  *ledger.Store
	kinds  *kinds
	before backstay.Flag
}

// kinds are the real step kinds, but for the gate's answers: no process is
// started for them.
type kinds struct {
	*driver.Registry
	bad   bool
	asked atomic.Int32
}

// Check passes; a bad release fails from the second share on.
func (k *kinds) Check(context.Context, backstay.Call) (backstay.CheckResult, error) {
	if k.asked.Add(1) > 1 && k.bad {
		return backstay.CheckResult{Verdict: backstay.Fail, Reason: "errors"}, nil
	}
	return backstay.CheckResult{Verdict: backstay.Pass}, nil
}

// open makes a shop whose release is good, or not.
func open(t *testing.T, good bool) *shop {
	t.Helper()
	s := &shop{t: t, dir: t.TempDir()}
	for name, content := range map[string]string{"errors.sh": "#!/bin/sh\n", "backstay.yaml": text} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.store, err = sqlite.OpenMemory(t.Context(), ledger.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.store.Close() })
	registry, err := all.New()
	if err != nil {
		t.Fatal(err)
	}
	s.kinds = &kinds{Registry: registry, bad: !good}
	_, err = s.people().Set(t.Context(), flag.Edit{Kind: model.FlagKind, Key: "new-checkout", Definition: &model.Source{Data: []byte(
		`{"key": "new-checkout", "on": false, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`)}})
	if err != nil {
		t.Fatal(err)
	}
	s.before = s.now()
	return s
}

func (s *shop) people() *flag.Store {
	return flag.New(s.store, backstay.Actor{UID: 1000, Name: "ann"}, time.Now)
}

func (s *shop) now() backstay.Flag {
	s.t.Helper()
	f, err := s.store.Flag(s.t.Context(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *shop) exposure() string {
	s.t.Helper()
	d, m, err := model.OfState(key, s.now().State)
	if err != nil {
		s.t.Fatal(err)
	}
	return model.Exposure(d, m)
}

// engine makes an engine that calls at with the number of each point it passes.
func (s *shop) engine(at func(n int) error) *engine.Engine {
	s.t.Helper()
	var mu sync.Mutex
	n := 0
	eng, err := engine.New(s.store, s.kinds, engine.Options{
		DataDir: s.dir, Poll: time.Millisecond, Backoff: time.Millisecond,
		Failpoint: func(string, string) error {
			mu.Lock()
			n++
			now := n
			mu.Unlock()
			return at(now)
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return eng
}

// deploy exposes the flag, and takes it up again after each crash until it is
// settled. It returns how it ended; "" where nothing was begun.
func (s *shop) deploy(at func(n int) error) backstay.State {
	s.t.Helper()
	eng := s.engine(at)
	sp, err := spec.Load(spec.Source{File: filepath.Join(s.dir, "backstay.yaml")}, s.kinds)
	if err != nil {
		s.t.Fatal(err)
	}
	d := plan.NewDraft(sp)
	seen, err := eng.Survey(s.t.Context(), d.Requests(), engine.Declared{Sections: sp.Sections, Dir: sp.Dir, Release: sp.Release})
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := plan.Build(d, seen)
	if err != nil {
		s.t.Fatal(err)
	}
	id := uuid.Must(uuid.NewV7()).String()
	sum, err := eng.Deploy(s.t.Context(), engine.Start{ID: id, Plan: p})
	for tries := 0; err != nil; tries++ {
		if !errors.Is(err, errCrash) || tries > 3 {
			var refused *backstay.RefusedError
			if errors.As(err, &refused) {
				return backstay.Refused
			}
			s.t.Fatal(err)
		}
		if _, found := s.store.Deployment(s.t.Context(), id); found != nil {
			return ""
		}
		sum, err = s.engine(func(int) error { return nil }).Resume(s.t.Context(), id, nil, nil)
	}
	return sum.State
}

// points is how many points an undisturbed exposure passes, and how it ends.
func points(t *testing.T, good bool) (n int, end backstay.State) {
	t.Helper()
	var mu sync.Mutex
	end = open(t, good).deploy(func(at int) error {
		mu.Lock()
		defer mu.Unlock()
		n = max(n, at)
		return nil
	})
	return n, end
}

// TestCrashAnywhere: an exposure that is killed at any point ends with everybody
// having the variant, or with the flag exactly as it was.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{"good": true, "bad": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, end := points(t, good)
			want := map[bool]backstay.State{true: backstay.Proven, false: backstay.RolledBack}[good]
			if end != want || all < 20 {
				t.Fatalf("undisturbed: %s after %d points, want %s", end, all, want)
			}
			ends := make(map[backstay.State]int)
			for n := 1; n <= all; n++ {
				s := open(t, good)
				end := s.deploy(func(at int) error {
					if at == n {
						return errCrash
					}
					return nil
				})
				ends[end]++
				f := s.now()
				switch {
				case end == backstay.Proven && good && s.exposure() == "on: true":
				case (end == backstay.RolledBack || end == "") && f.State.Equal(s.before.State):
				default:
					t.Errorf("killed at point %d of %d: %s, the flag is %s", n, all, end, s.exposure())
				}
			}
			t.Logf("%d points: %v", all, ends)
		})
	}
}

// TestKillAnywhere: whenever a person kills the flag while it is exposed, it is
// off in the end, and no deployment turns it on again.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	all, _ := points(t, true)
	ends := make(map[backstay.State]int)
	for n := 1; n <= all; n++ {
		s := open(t, true)
		var once sync.Once
		end := s.deploy(func(at int) error {
			if at >= n {
				once.Do(func() {
					// A flag that is off already is killed by what keeps it off: another definition.
					if out, err := s.people().Kill(t.Context(), key, "on fire"); err != nil {
						t.Error(err)
					} else if !out.Changed {
						_, err = s.people().Set(t.Context(), flag.Edit{Kind: model.FlagKind, Key: "new-checkout", Meta: func(m *model.Meta) { m.Owner = "fire brigade" }})
						var locked *ledger.LockedError
						if err != nil && !errors.As(err, &locked) {
							t.Error(err)
						}
					}
				})
			}
			return nil
		})
		ends[end]++
		killed := s.now()
		history, err := s.people().History(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		was := false
		for _, h := range history {
			was = was || h.Act == "kill"
		}
		if was && s.exposure() != "off: false" {
			t.Errorf("killed at point %d of %d, which ended %s: version %d is %s", n, all, end, killed.Version, s.exposure())
		}
		if end == backstay.Held {
			t.Errorf("killed at point %d of %d: a person is called for nothing", n, all)
		}
	}
	t.Logf("%d points: %v", all, ends)
}
