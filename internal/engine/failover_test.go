package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/parts"
)

// failover deploys steps a to e on a PostgreSQL whose backup is of the moment
// when step b acts, and calls then when step d does.
type failover struct {
	pg     *parts.Postgres
	dsn    string
	world  *scripted
	tokens []backstay.Token // of each act, in order
	backup parts.Backup
	then   func()
}

func newFailover(t *testing.T) *failover {
	t.Helper()
	f := &failover{pg: parts.StartPostgres(t)}
	f.dsn = f.pg.Database(t)
	f.world = &scripted{world: newWorld(map[backstay.Key]string{"mem:a": "old", "mem:b": "old", "mem:c": "old", "mem:d": "old"})}
	did := map[string]bool{}
	f.world.do = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		f.tokens = append(f.tokens, c.Token)
		res, err := f.world.world.Do(ctx, c)
		if !did[c.Step.ID] {
			did[c.Step.ID] = true
			switch c.Step.ID {
			case "b":
				f.backup = f.pg.Backup(t)
			case "d":
				f.then()
			}
		}
		return res, err
	}
	f.world.undo = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		f.tokens = append(f.tokens, c.Token)
		return f.world.world.Undo(ctx, c)
	}
	return f
}

func (f *failover) engine(t *testing.T, ttl time.Duration) (*engine.Engine, *ledger.Store) {
	t.Helper()
	store, err := postgres.Open(t.Context(), f.dsn, ledger.Options{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Abandon() })
	e, err := engine.New(store, f.world, engine.Options{DataDir: t.TempDir(), Actor: backstay.Actor{UID: 1000, Name: "ada"}, Poll: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return e, store
}

// checkTokens: a target that fences never sees a token lower than one before.
func (f *failover) checkTokens(t *testing.T) {
	t.Helper()
	for i := 1; i < len(f.tokens); i++ {
		was, is := f.tokens[i-1], f.tokens[i]
		if is.Less(was) {
			t.Errorf("token of act %d went back: got %+v after %+v", i+1, is, was)
		}
	}
	if last := f.tokens[len(f.tokens)-1]; last.Generation < 2 {
		t.Errorf("last token: got %+v, want a later generation", last)
	}
}

// TestDeployOutlivesFailover: the deploying process goes on after a failover
// that lost the entries of two steps, and nothing is missing at its end.
func TestDeployOutlivesFailover(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	e, store := f.engine(t, 2*time.Minute)
	f.then = func() { f.pg.Fail(t, f.backup, true) }
	s, err := e.Deploy(t.Context(), engine.Start{ID: newID(t), Plan: chain(set("a"), set("b"), set("c"), set("d"), set("e"))})
	if err != nil || s.State != backstay.Proven {
		t.Fatalf("got %s, %v; want proven", s.State, err)
	}
	want := map[backstay.Key]string{"mem:a": "new-a", "mem:b": "new-b", "mem:c": "new-c", "mem:d": "new-d", "mem:e": "new-e"}
	if diff := cmp.Diff(want, f.world.snapshot()); diff != "" {
		t.Errorf("world (-want +got):\n%s", diff)
	}
	outcomes := map[string]int{}
	entries, err := store.Entries(t.Context(), s.Deployment, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, en := range entries {
		if en.Kind == backstay.EntryOutcome {
			outcomes[en.Step]++
		}
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, outcomes); diff != "" {
		t.Errorf("outcomes in the log (-want +got):\n%s", diff)
	}
	f.checkTokens(t)
}

// TestRecoverAfterFailover: the deploying process is gone too. Whoever goes on
// has a ledger that is older than the world: it folds what there is, observes
// the step that is in doubt there, and does the lost ones again, under tokens
// that are greater than any of the lost branch.
func TestRecoverAfterFailover(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	e, store := f.engine(t, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	f.then = cancel
	id := newID(t)
	if _, err := e.Deploy(ctx, engine.Start{ID: id, Plan: chain(set("a"), set("b"), set("c"), set("d"), set("e"))}); !errors.Is(err, engine.ErrStopped) {
		t.Fatalf("got %v, want ErrStopped", err)
	}
	if err := store.Abandon(); err != nil {
		t.Fatal(err)
	}
	f.pg.Fail(t, f.backup, true)

	e, store = f.engine(t, time.Second)
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := e.Resume(ctx, id, nil, nil)
	for _, owned := errors.AsType[*ledger.OwnedError](err); owned && ctx.Err() == nil; _, owned = errors.AsType[*ledger.OwnedError](err) {
		s, err = e.Resume(ctx, id, nil, nil) // until the lease of the process that is gone has ended
	}
	if err != nil || s.State != backstay.Proven {
		t.Fatalf("got %s, %v; want proven", s.State, err)
	}
	entries, err := store.Entries(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	var observed []string
	for _, en := range entries {
		if en.Kind == backstay.EntryObserved {
			observed = append(observed, en.Step)
		}
	}
	if diff := cmp.Diff([]string{"b"}, observed); diff != "" {
		t.Errorf("steps that were in doubt (-want +got):\n%s", diff)
	}
	want := map[backstay.Key]string{"mem:a": "new-a", "mem:b": "new-b", "mem:c": "new-c", "mem:d": "new-d", "mem:e": "new-e"}
	if diff := cmp.Diff(want, f.world.snapshot()); diff != "" {
		t.Errorf("world (-want +got):\n%s", diff)
	}
	f.checkTokens(t)
}
