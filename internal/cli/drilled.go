package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay/internal/plan"
)

// asDrilled is the plan to deploy where the policy demands a drill: the newest
// drilled plan of the release that differs from the given one in nothing but
// the time at which it was made, which a file step freezes as the time of what
// it writes. So `drill` and then `deploy` of the same specification in an
// unchanged world run one plan, with one digest. Where there is none the plan is
// its own; whether a drill is good enough the engine decides.
func (s *session) asDrilled(ctx context.Context, p *plan.Plan) (*plan.Plan, error) {
	if p.Require == nil || p.Require.Drill == nil {
		return p, nil
	}
	all, err := s.drills(ctx)
	if err != nil {
		return nil, err
	}
	tried := map[string]bool{}
	for _, d := range slices.Backward(all) {
		if d.Release != p.Release || tried[d.Plan] {
			continue
		}
		tried[d.Plan] = true
		if d.Plan == p.Digest() {
			return p, nil
		}
		data, err := s.store.Plan(ctx, d.Plan)
		if err != nil {
			return nil, fmt.Errorf("read the plan of drill %s: %w", d.ID, err)
		}
		old, err := plan.Decode(data)
		if err != nil {
			return nil, err
		}
		same, err := sameButTimes(p, old)
		if err != nil {
			return nil, err
		}
		if same {
			s.c.progress("deploying plan %.16s as it was drilled %s ago", d.Plan, s.c.age(d.At))
			return old, nil
		}
	}
	return p, nil
}

// sameButTimes reports whether two plans differ at most in the times of what
// file steps write.
func sameButTimes(a, b *plan.Plan) (bool, error) {
	var trees [2]any
	for i, p := range []*plan.Plan{a, b} {
		dec := json.NewDecoder(bytes.NewReader(p.Encode()))
		dec.UseNumber()
		if err := dec.Decode(&trees[i]); err != nil {
			return false, fmt.Errorf("compare plans: %w", err)
		}
	}
	return alike(trees[0], trees[1], ""), nil
}

// alike compares two values of JSON, which are the member name of their object.
func alike(a, b any, name string) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			other, there := b[k]
			if !there || !alike(v, other, k) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, func(x, y any) bool { return alike(x, y, "") })
	case string:
		b, ok := b.(string)
		return ok && (a == b || name == "mtime" && isTime(a) && isTime(b))
	}
	return a == b
}

func isTime(s string) bool {
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil
}
