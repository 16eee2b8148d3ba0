package report

import (
	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Live says which deployment of the release was in effect before this one and
// after it. Nil: none that the ledger knows, or (After) it cannot be said,
// because the deployment is under way or held.
type Live struct {
	Before *LiveRelease `json:"before"`
	After  *LiveRelease `json:"after"`
	// Mixed says that what stands now is neither: see the residue.
	Mixed bool `json:"mixed,omitempty"`
}

// LiveRelease names a deployment that is in effect.
type LiveRelease struct {
	Deployment string `json:"deployment"`
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"`
}

func (l *LiveRelease) words() string {
	if l == nil {
		return "nothing that Backstay deployed"
	}
	if l.Version == "" {
		return l.Name
	}
	return l.Name + " (" + l.Version + ")"
}

// liveAround finds what was in effect before and after a deployment. all are
// the release's committed and proven ones, newest first.
func liveAround(dep ledger.Deployment, all []ledger.Deployment) Live {
	var l Live
	var until []ledger.Deployment // not younger than dep
	for _, d := range all {
		if d.Number <= dep.Number && d.Environment == dep.Environment {
			until = append(until, d)
		}
	}
	var older []ledger.Deployment
	for _, d := range until {
		if d.Number < dep.Number {
			older = append(older, d)
		}
	}
	l.Before = inEffect(older)
	switch dep.State {
	case backstay.Committed, backstay.Proven:
		l.After = inEffect(until)
	case backstay.RolledBack, backstay.Refused:
		l.After = l.Before
	case backstay.Held, backstay.Closed:
		l.Mixed = true
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.RollingBack:
	}
	return l
}

// inEffect is the newest of these that none of them takes back. One that only
// took another one back brought an earlier one to life.
func inEffect(all []ledger.Deployment) *LiveRelease {
	back := map[string]bool{}
	for _, d := range all {
		if back[d.ID] {
			continue
		}
		if d.Reverts != "" {
			back[d.Reverts] = true
			continue
		}
		return &LiveRelease{Deployment: d.ID, Name: d.Name, Version: d.Version}
	}
	return nil
}
