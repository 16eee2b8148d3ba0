package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// unsettled are the states in which a deployment still needs its driver.
func unsettled() []backstay.State {
	return []backstay.State{
		backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.RollingBack,
	}
}

// find resolves a name (shop#4) or an ID (or the beginning of one).
func (s *session) find(ctx context.Context, ref string) (ledger.Deployment, error) {
	return s.store.Find(ctx, ref)
}

// choose resolves args[0], or, without it, the one deployment in the given
// states. Several are a refusal that lists them.
func (s *session) choose(ctx context.Context, args []string, what string, states ...backstay.State) (ledger.Deployment, error) {
	if len(args) > 0 {
		return s.find(ctx, args[0])
	}
	deps, err := s.store.List(ctx, ledger.Filter{States: states, Limit: allOfThem})
	if err != nil {
		return ledger.Deployment{}, fmt.Errorf("list deployments: %w", err)
	}
	switch len(deps) {
	case 0:
		return ledger.Deployment{}, &backstay.RefusedError{
			What: "choice", Err: fmt.Errorf("no deployment %s", what), Hint: "list them with `backstay history`, and name one",
		}
	case 1:
		return deps[0], nil
	}
	return ledger.Deployment{}, s.ambiguous(deps, what)
}

func (s *session) ambiguous(deps []ledger.Deployment, what string) error {
	names := make([]string, 0, len(deps))
	for _, d := range deps {
		names = append(names, fmt.Sprintf("%s (%s, for %s)", d.Name, stateWord(d.State), s.c.age(d.CreatedAt)))
	}
	return &backstay.RefusedError{
		What: "choice", Err: fmt.Errorf("%d deployments %s: %s", len(deps), what, strings.Join(names, ", ")),
		Hint: "name the one you mean: backstay " + s.c.verb + " " + deps[0].Name,
	}
}

// refuseState is a refusal because of the state a deployment is in.
func refuseState(d ledger.Deployment, why, hint string) error {
	return &backstay.RefusedError{What: "state", Err: fmt.Errorf("deployment %s is %s: %s", d.Name, stateWord(d.State), why), Hint: hint}
}

// lockedBy returns the first lock that somebody else holds on one of the keys.
func lockedBy(locks []ledger.Lock, keys []backstay.Key) *ledger.LockedError {
	for _, l := range locks {
		if i := slices.IndexFunc(keys, l.Key.Overlaps); i >= 0 {
			return &ledger.LockedError{Lock: l, Want: keys[i]}
		}
	}
	return nil
}
