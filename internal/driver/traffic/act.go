package traffic

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// pollEvery is how often a router is asked whether something has come about.
const pollEvery = 50 * time.Millisecond

// Do makes the move, or gives the side its instances. A router that does not answer
// is not asked for ever.
func (k *Kind) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, r, t, err := k.opened(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	r = k.guards.Around(t.Name, r)
	if ctx.Err() != nil {
		return backstay.Result{}, fmt.Errorf("change route %s: %w", b.Route, ending(ctx))
	}
	now, err := r.Read(ctx)
	if err != nil {
		return backstay.Result{}, over(ctx, err)
	}
	if now.Torn != "" {
		return backstay.Result{}, &backstay.Error{Class: backstay.Conflict, Op: "change route", Subject: b.Route, Err: errors.New(now.Torn), Hint: "bring the router in line with its configuration, then deploy again"}
	}
	if b.Move != nil {
		return b.move(ctx, call, r, t, now)
	}
	return b.register(ctx, call, r, t, now)
}

// move sets all weights, from those that the step began with.
func (b body) move(ctx context.Context, call backstay.Call, r router.Router, t router.Traits, now *router.Route) (backstay.Result, error) {
	key := namesOf(t.Name, "").route
	want := weightsOf(b.Move, nil)
	is := weightsOf(now.Weights, now.Own)
	if is.Equal(want) {
		return backstay.Result{Note: "was as wanted already"}, nil
	}
	if err := b.unmoved(call, key, is); err != nil {
		return backstay.Result{}, err
	}
	was := now.Weights
	if err := changeWarm(ctx, r, now, router.Change{Writer: writerOf(call), Weights: b.Move}, b.Within.Std()); err != nil {
		return backstay.Result{}, over(ctx, err)
	}
	now, err := r.Read(ctx)
	if err != nil {
		return backstay.Result{}, over(ctx, err)
	}
	if got := weightsOf(now.Weights, now.Own); !got.Equal(want) {
		return backstay.Result{}, b.lied(key, want, got)
	}
	result := backstay.Result{Note: told(b.Move)}
	for _, side := range slices.Sorted(maps.Keys(was)) {
		if b.Move[side] > 0 {
			continue
		}
		left, err := drained(ctx, r, side, b.Drain.Std())
		if err != nil {
			return result, err
		}
		result.Note += leftover(side, left, b.Drain)
	}
	return result, nil
}

// unmoved refuses to change what is neither as the step began nor as it wants.
func (b body) unmoved(call backstay.Call, key backstay.Key, is backstay.ResourceState) error {
	before, known := call.Before[key]
	if !known || before.Equal(is) {
		return nil
	}
	return &backstay.Error{
		Class: backstay.Conflict, Op: "change route", Subject: b.Route,
		Err:  fmt.Errorf("%s was %s when the step began and is %s now", key, shown(before), shown(is)),
		Hint: "somebody else changes this route: look at the router, then deploy again",
	}
}

// lied is the error of a router that took a change and tells something else.
func (b body) lied(key backstay.Key, want, got backstay.ResourceState) error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "read back", Subject: string(key),
		Err:  fmt.Errorf("the router took the change and tells %s, not %s", shown(got), shown(want)),
		Hint: "something else writes there, or the router does not do what it says",
	}
}

func shown(s backstay.ResourceState) string {
	if len(s.Parts) == 0 {
		return "nothing"
	}
	words := make([]string, 0, len(s.Parts))
	for _, part := range slices.Sorted(maps.Keys(s.Parts)) {
		words = append(words, fmt.Sprintf("%.200s", s.Parts[part]))
	}
	return strings.Join(words, " with ")
}

// register gives the side its instances and waits until they are ready; retiring
// gives it none.
func (b body) register(ctx context.Context, call backstay.Call, r router.Router, t router.Traits, now *router.Route) (backstay.Result, error) {
	account, addresses, err := b.account(r, now, call.DataDir)
	if err != nil {
		return backstay.Result{}, err
	}
	result := backstay.Result{Slots: map[string]string{"side": b.Side}}
	if len(addresses) > 0 {
		_, endpoint, _ := strings.Cut(addresses[0], "://")
		result.Slots["endpoint"] = endpoint
	}
	if len(addresses) > 0 && !slices.ContainsFunc(now.Sides, func(s router.Side) bool { return s.Name != b.Side && len(s.Addresses) > 0 }) {
		result.Slots[backstay.SlotFirst] = "true"
	}
	want := stateOf(account)
	if is := sideOf(now, b.Side); is.Equal(want) {
		result.Note = "was as wanted already"
	} else {
		if err := b.unmoved(call, namesOf(t.Name, b.Side).side, is); err != nil {
			return result, err
		}
		if err := b.replace(ctx, r, now, router.Change{
			Writer: writerOf(call), Sides: map[string]json.RawMessage{b.Side: account}, Within: b.Within.Std(),
		}, namesOf(t.Name, b.Side).side, want); err != nil {
			return result, over(ctx, err)
		}
		result.Note = fmt.Sprintf("side %s has %s", b.Side, cmp.Or(strings.Join(addresses, ", "), "no instances"))
	}
	if err := b.ready(ctx, r); err != nil {
		return result, err
	}
	left, err := drained(ctx, r, b.Side, b.Drain.Std())
	result.Note += leftover(b.Side, left, b.Drain)
	return result, err
}

// replace changes the route and reads the side back.
func (b body) replace(ctx context.Context, r router.Router, now *router.Route, c router.Change, key backstay.Key, want backstay.ResourceState) error {
	if err := r.Change(ctx, now, c); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	after, err := r.Read(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if got := sideOf(after, b.Side); !got.Equal(want) {
		return b.lied(key, want, got)
	}
	return nil
}

// account is what the side shall have: the router's account and the addresses.
// Nothing for a side that is retired.
func (b body) account(r router.Router, now *router.Route, dataDir string) (json.RawMessage, []string, error) {
	addresses := b.Instances // none where it is retired
	if b.Service != "" {
		var err error
		if addresses, err = endpoints(dataDir, b.Service, b.Side); err != nil {
			return nil, nil, err
		}
	}
	account, err := r.Place(now, b.Side, addresses)
	if err != nil {
		return nil, nil, fmt.Errorf("place instances of side %s: %w", b.Side, err)
	}
	return account, addresses, nil
}

func currentFile(dataDir, service, side string) string {
	return filepath.Join(dataDir, "services", service+"."+side, "current")
}

// maxCurrent bounds the file that a service keeps about its instances.
const maxCurrent = 4 << 20

// endpoints are the addresses of a service's instances on a side, as its own
// file says.
func endpoints(dataDir, service, side string) ([]string, error) {
	refuse := func(err error) error {
		return &backstay.Error{
			Class: backstay.Permanent, Op: "find the instances of service", Subject: service + " on side " + side, Err: err,
			Hint: fmt.Sprintf("start it there first: service: %s, side: %s", service, side),
		}
	}
	path := currentFile(dataDir, service, side)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, refuse(errors.New("it is not in use there"))
	case err != nil:
		return nil, refuse(err)
	case info.Size() > maxCurrent || !info.Mode().IsRegular():
		return nil, refuse(fmt.Errorf("%s is no file of a service", path))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, refuse(err)
	}
	var current struct {
		Endpoints []string `json:"endpoints"`
	}
	if err := json.Unmarshal(data, &current); err != nil {
		return nil, refuse(err)
	}
	if len(current.Endpoints) == 0 {
		return nil, refuse(errors.New("its instances listen on no port that it knows"))
	}
	out := make([]string, len(current.Endpoints))
	for i, e := range current.Endpoints {
		out[i] = "http://" + e
		if why := badAddress(out[i]); why != "" {
			return nil, refuse(fmt.Errorf("%q %s", e, why))
		}
	}
	return out, nil
}

// ready waits until the router takes all instances of the side for ready.
func (b body) ready(ctx context.Context, r router.Router) error {
	if b.Within <= 0 {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, b.Within.Std())
	defer cancel()
	var why []string
	err := poll(waiting, func() (bool, error) {
		unready, err := r.Unready(waiting, b.Side)
		if err == nil {
			why = unready
		}
		return err == nil && len(unready) == 0, err
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for side %s: %w", b.Side, ending(ctx))
	case waiting.Err() == nil:
		return err
	}
	return &backstay.Error{
		Class: backstay.Permanent, Op: "wait for side", Subject: b.Side,
		Err:  fmt.Errorf("it is not ready after %s: %s", b.Within, cmp.Or(strings.Join(why, "; "), err.Error())),
		Hint: "look at the instances, or give them more time with within",
	}
}

// drained waits until no request is in flight to what was taken out of the side,
// and returns how many are left when the time is over.
func drained(ctx context.Context, r router.Router, side string, limit time.Duration) (left int64, err error) {
	if limit <= 0 {
		return 0, nil
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = poll(waiting, func() (bool, error) {
		n, err := r.Busy(waiting, side)
		if err == nil {
			left = n
		}
		return err == nil && n == 0, err
	})
	switch {
	case ctx.Err() != nil:
		return left, fmt.Errorf("drain side %s: %w", side, ending(ctx))
	case err != nil && waiting.Err() == nil:
		return left, err
	}
	return left, nil // the time is over: the rest goes on where it is
}

func leftover(side string, left int64, within backstay.Duration) string {
	if left == 0 {
		return ""
	}
	return fmt.Sprintf("; %d requests were still in flight to %s after %s", left, side, within)
}

// poll asks until the answer is yes, an error that time does not heal, or the end
// of ctx, whose error it returns.
func poll(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		done, err := ask()
		if done {
			return nil
		}
		if err != nil && ctx.Err() == nil && backstay.ClassOf(err) != backstay.Transient {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait: %w", ctx.Err())
		}
	}
}

// Undo puts back the router's own account of what call.Restore lists.
func (k *Kind) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, r, t, err := k.opened(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	if ctx.Err() != nil {
		return backstay.Result{}, fmt.Errorf("undo route %s: %w", b.Route, ending(ctx))
	}
	now, err := r.Read(ctx)
	if err != nil {
		return backstay.Result{}, over(ctx, err)
	}
	c, err := b.back(call, t, now)
	if err != nil {
		return backstay.Result{}, err
	}
	if c.Weights == nil && c.Sides == nil && c.Order == nil {
		return backstay.Result{}, nil
	}
	c.Writer, c.Within, c.Restore = writerOf(call), b.Within.Std(), true
	var result backstay.Result
	if c.Sides != nil && now.Weights[b.Side] == 0 {
		left, err := drained(ctx, r, b.Side, b.Drain.Std())
		if err != nil {
			return result, err
		}
		result.Note = strings.TrimPrefix(leftover(b.Side, left, b.Drain), "; ")
		if now, err = r.Read(ctx); err != nil {
			return result, over(ctx, err)
		}
	}
	was := now.Weights
	if err := changeWarm(ctx, r, now, c, defaultWithin.Std()); err != nil {
		return result, over(ctx, err)
	}
	after, err := r.Read(ctx)
	if err != nil {
		return result, over(ctx, err)
	}
	got := b.imageOf(t, after)
	for _, k := range slices.Sorted(maps.Keys(call.Restore)) {
		if len(call.Restore[k]) > 0 && !got[k].Equal(call.Before[k]) {
			return result, b.lied(k, call.Before[k], got[k])
		}
	}
	if c.Sides != nil {
		// Instances that left a side with traffic still answer what they were asked.
		left, err := drained(ctx, r, b.Side, b.Drain.Std())
		if err != nil {
			return result, err
		}
		result.Note += strings.TrimPrefix(leftover(b.Side, left, b.Drain), "; ")
	}
	if c.Weights == nil {
		return result, nil
	}
	// Users are back from here on; what their old side still answers is waited for.
	result.Slots = map[string]string{slotMoved: time.Now().UTC().Format(time.RFC3339Nano)}
	for _, side := range slices.Sorted(maps.Keys(was)) {
		if c.Weights[side] > 0 {
			continue
		}
		left, err := drained(ctx, r, side, b.Drain.Std())
		if err != nil {
			return result, err
		}
		result.Note += strings.TrimPrefix(leftover(side, left, b.Drain), "; ")
	}
	return result, nil
}

// slotMoved is when the router had taken the way back: what comes after it in the
// same act no user notices.
const slotMoved = "moved"

// changeWarm makes a change, and waits at most for within where a side that was
// just started is not ready for it yet. Where it is, nothing is waited for.
func changeWarm(ctx context.Context, r router.Router, now *router.Route, c router.Change, within time.Duration) error {
	err := r.Change(ctx, now, c)
	if err == nil || c.Weights == nil || within <= 0 || !errors.Is(err, router.ErrNotReady) {
		return err //nolint:wrapcheck // says what it did
	}
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	last := err
	err = poll(waiting, func() (bool, error) {
		now, err := r.Read(waiting)
		if err == nil {
			err = r.Change(waiting, now, c)
		}
		if err != nil && waiting.Err() == nil {
			last = err
		}
		if errors.Is(err, router.ErrNotReady) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil && ctx.Err() == nil {
		return last
	}
	return err
}

// back is the change that restores what is listed and differs.
func (b body) back(call backstay.Call, t router.Traits, now *router.Route) (router.Change, error) {
	n, is := namesOf(t.Name, b.Side), b.imageOf(t, now)
	var c router.Change
	for _, k := range b.keys(t) {
		before, known := call.Before[k]
		if len(call.Restore[k]) == 0 || before.Equal(is[k]) {
			continue
		}
		if !known || before.Opaque || before.Unreadable != "" {
			return c, fmt.Errorf("undo route %s: no before-image of %s", b.Route, k)
		}
		switch k {
		case n.route:
			if err := json.Unmarshal(before.Parts[partWeights], &c.Weights); err != nil {
				return c, fmt.Errorf("undo route %s: read weights: %w", b.Route, err)
			}
			c.Own = before.Parts[partOwn]
		case n.order:
			if err := json.Unmarshal(before.Parts[""], &c.Order); err != nil {
				return c, fmt.Errorf("undo route %s: read order of sides: %w", b.Route, err)
			}
		case n.side:
			c.Sides = map[string]json.RawMessage{b.Side: before.Parts[""]}
		}
	}
	return c, nil
}

func writerOf(call backstay.Call) wire.Writer {
	return wire.Writer{Deployment: call.Deployment, Token: call.Token}
}

// over says of an error that came because ctx ended that it did.
func over(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %w", ending(ctx), err)
	}
	return err
}
