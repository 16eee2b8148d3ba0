package sim

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// canary is the value of the one secret of this world. Every act resolves it,
// prints it and has it in its errors; it must come out nowhere (I14).
const canary = "hunter2-canary-value"

// safe holds the canary.
type safe struct{}

var _ backstay.Secrets = safe{}

// Resolve gives the canary, whatever it is asked for.
func (safe) Resolve(string) (string, error) { return canary, nil }

// token resolves the canary as a step would.
func token(c backstay.Call) string {
	if c.Secrets == nil {
		return ""
	}
	value, err := c.Secrets.Resolve("secret:env/TOKEN")
	if err != nil {
		return err.Error()
	}
	return value
}

// secrets: the canary is in no entry and in no summary (I14).
func (h *history) secrets() {
	for _, e := range h.entries {
		if strings.Contains(string(e.Body), canary) {
			h.violate("I14: entry %d (%s of step %q) holds a secret: %s", e.N, e.Kind, e.Step, e.Body)
		}
	}
	if text, err := json.Marshal(h.summary); err != nil || strings.Contains(string(text), canary) {
		h.violate("I14: the summary holds a secret (%v)", err)
	}
}

// sharedKey is the key of the plan that the other deployment wants as well.
func (x *run) sharedKey() (backstay.Key, bool) {
	for _, k := range x.plan.Locks {
		if !slices.Contains(x.sc.opaque, k) {
			return k, true
		}
	}
	return "", false
}

// theirChanges are what another deployment wants: one of this plan's keys and
// one of its own.
func theirChanges(k backstay.Key) []change {
	shared := set(k, "second")
	if k == site {
		shared = in("theirs", "second")
	}
	return []change{shared, set("file:/theirs", "second")}
}

// deploySecond plans and starts the other deployment as another process would. If the
// world changes between the two, which is refused, they plan again.
func (x *run) deploySecond(ctx context.Context) (s engine.Summary, err error) {
	for range 10 {
		s, err = x.planAndDeploySecond(ctx)
		var refused *backstay.RefusedError
		if !errors.As(err, &refused) || refused.What != "drift" {
			break
		}
	}
	return s, err
}

func (x *run) planAndDeploySecond(ctx context.Context) (engine.Summary, error) {
	theirs, eng, err := x.process(ctx, 99)
	if err != nil {
		return engine.Summary{}, err
	}
	theirs.quiet = true
	defer theirs.kill()
	k, _ := x.sharedKey()
	p := scenario{steps: func() []backstay.Step {
		both := theirChanges(k)
		return []backstay.Step{step("theirs-shared", kindTree, both[0]), step("theirs-own", kindTree, both[1])}
	}}.freeze(x.w.snapshot())
	p.Release = x.release + "-second"
	return eng.Deploy(ctx, engine.Start{ID: "01900000-0000-7000-a000" + x.id[len(x.id)-13:], Plan: p, AcceptDrift: true})
}

// second: while a deployment is under way nobody else gets its keys.
func (x *run) second(ctx context.Context) {
	d, err := x.store.Deployment(context.WithoutCancel(ctx), x.id)
	if _, shared := x.sharedKey(); err != nil || !shared || !d.State.Locks() {
		return // it is not there yet, or not any more: nothing is shared
	}
	x.w.note(event{Kind: "second"})
	x.mustBeLocked(context.WithoutCancel(ctx), d.State)
}

func (x *run) mustBeLocked(ctx context.Context, state backstay.State) {
	_, err := x.deploySecond(ctx)
	var locked *ledger.LockedError
	switch {
	case !errors.As(err, &locked):
		x.book.violate("I8: a second deployment on a shared key of a %s one got %v", state, err)
	case locked.Lock.Deployment != x.id:
		x.book.violate("I8: the lock is said to be held by %s, not %s", locked.Lock.Deployment, x.id)
	}
}

// secondAfter: after the end the other deployment gets the keys and lands; a
// held one keeps them.
func (x *run) secondAfter(ctx context.Context) {
	k, shared := x.sharedKey()
	if !x.sc.shares || !shared {
		return
	}
	row, err := x.store.Deployment(ctx, x.id)
	if err != nil {
		x.violate("I7: read the deployment: %v", err)
		return
	}
	if row.State.Locks() {
		x.mustBeLocked(ctx, row.State)
		return
	}
	want := x.w.snapshot()
	for _, c := range theirChanges(k) {
		want[c.cell()] = c.To
	}
	s, err := x.deploySecond(ctx)
	if err != nil || s.State != backstay.Proven {
		x.violate("I1: after a %s deployment another one on its keys ended %s: %v", row.State, s.State, err)
		return
	}
	if got := x.w.snapshot(); !maps.Equal(got, want) {
		x.violate("I2: after a %s deployment another one left %v, want %v", row.State, got, want)
	}
}
