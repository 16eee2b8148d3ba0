package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

// ending is what every verb that drives a deployment closes with.
type ending struct {
	Format  string         `json:"format"`
	Summary engine.Summary `json:"summary"`
	// Live is the deployment whose release is in effect now; nil where there
	// is none, or where a held deployment makes it unclear.
	Live   *liveRelease `json:"live"`
	Undone []string     `json:"undone"`
	Ledger headDocument `json:"ledger"`
	// ExitCode is the verb's.
	ExitCode int `json:"exit_code"`
}

// liveRelease names what is in effect.
type liveRelease struct {
	Deployment string         `json:"deployment"`
	Name       string         `json:"name"`
	Release    string         `json:"release"`
	Version    string         `json:"version,omitempty"`
	State      backstay.State `json:"state"`
}

// headDocument is the ledger's head as it is shown.
type headDocument struct {
	Size int64  `json:"size"`
	Root string `json:"root"` // base64, as in checkpoints
}

func headOf(h ledger.Head) headDocument {
	return headDocument{h.Size, base64.StdEncoding.EncodeToString(h.Root[:])}
}

// end prints how a deployment ended and returns the exit code as an error.
func (s *session) end(ctx context.Context, sum engine.Summary) error {
	ctx = context.WithoutCancel(ctx)
	e := ending{Format: s.c.format(), Summary: sum, Undone: undone(sum.View), ExitCode: sum.ExitCode}
	head, err := s.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the ledger's head: %w", err)
	}
	e.Ledger = headOf(head)
	if e.Live, err = s.liveRelease(ctx, sum.View); err != nil {
		return err
	}
	if s.c.json {
		write := s.c.out.document
		if s.c.lines() {
			write = s.c.out.record
		}
		if err := write(e); err != nil {
			return err
		}
		return exit(e.ExitCode)
	}
	s.c.printEnding(e)
	return exit(e.ExitCode)
}

// lines reports whether the verb's JSON is one document per line: events come
// before the ending.
func (c *call) lines() bool {
	switch c.verb {
	case "deploy", "recover", "rollback", "wrap", "drift":
		return true
	}
	return c.events
}

// undone lists the steps that were taken back, newest first.
func undone(v engine.View) []string {
	out := []string{}
	for i := len(v.Steps) - 1; i >= 0; i-- {
		if s := v.Steps[i]; s.Phase == engine.PhaseUndone && s.Undo != engine.CompensationUntouched {
			out = append(out, s.ID)
		}
	}
	return out
}

// liveRelease finds what is in effect after a deployment.
func (s *session) liveRelease(ctx context.Context, v engine.View) (*liveRelease, error) {
	if v.State == backstay.Held || v.State == backstay.Closed {
		return nil, nil
	}
	deps, err := s.store.List(ctx, ledger.Filter{Release: v.Release, States: []backstay.State{backstay.Committed, backstay.Proven}, Limit: allOfThem})
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	for _, d := range inEffect(deps) {
		// What only took another one back brought an earlier release to life.
		if d.Reverts == "" {
			return &liveRelease{d.ID, d.Name, d.Release, d.Version, d.State}, nil
		}
	}
	return nil, nil
}

// allOfThem is a limit that is none.
const allOfThem = 1 << 30

// inEffect keeps of deployments (newest first) those that are committed or
// proven and not taken back by another one that is itself in effect.
func inEffect(deps []ledger.Deployment) []ledger.Deployment {
	back := map[string]bool{} // taken back
	var out []ledger.Deployment
	for _, d := range deps {
		if (d.State != backstay.Committed && d.State != backstay.Proven) || back[d.ID] {
			continue
		}
		if d.Reverts != "" {
			back[d.Reverts] = true
		}
		out = append(out, d)
	}
	return out
}

func (c *call) printEnding(e ending) {
	v, p := e.Summary.View, c.out
	p.line("%s", p.paint(stateTone(v.State), orWord(v.Name, v.Release)+" "+headline(v)))
	if v.Failure != nil {
		where := ""
		if v.Failure.Step != "" {
			where = "step " + v.Failure.Step + ": "
		}
		p.line("  cause       %s: %s%s", v.Failure.Cause, where, v.Failure.Reason)
		if v.Failure.Hint != "" {
			p.line("              hint: %s", v.Failure.Hint)
		}
	}
	p.line("  live        %s", liveWords(e))
	p.line("  undone      %s", orWord(strings.Join(e.Undone, ", "), "nothing"))
	for _, k := range v.Kept {
		p.line("  kept        %s%s: somebody changed it since; it was not overwritten", k.Key, partOf(k))
	}
	p.line("  residue     %s", orWord(residueCount(v.Residue), "none"))
	p.residues(v.Residue)
	p.line("  deployment  %s  %s", v.Name, v.Deployment)
	p.line("  ledger      %d entries, head %s", e.Ledger.Size, e.Ledger.Root)
	if next := c.afterwards(v); next != "" {
		p.line("  next        %s", next)
	}
}

// headline says how a deployment stands in one sentence.
func headline(v engine.View) string {
	switch v.State {
	case backstay.Proven:
		return "is proven"
	case backstay.Committed:
		return "is committed; its bake goes on"
	case backstay.RolledBack:
		if len(v.Kept) > 0 {
			return "was rolled back: everything reads as before, but for what somebody changed since"
		}
		if slices.ContainsFunc(v.Steps, func(s engine.StepView) bool { return s.Undo == engine.CompensationCompensated }) {
			return "was rolled back: everything that can be read reads as before"
		}
		return "was rolled back: everything reads as before"
	case backstay.Held:
		return "is HELD: " + count(len(v.Residue), "thing") + " could not be restored"
	case backstay.Closed:
		return "is closed: a person signed for its residue"
	case backstay.Refused:
		return "was refused: nothing was touched"
	case backstay.Holding:
		return "is holding: " + orWord(v.Next, "it waits")
	case backstay.RollingBack:
		return "is being rolled back"
	case backstay.Planned, backstay.Approved, backstay.Running:
		return "is running"
	}
	return "is " + stateWord(v.State)
}

func liveWords(e ending) string {
	v := e.Summary.View
	switch {
	case e.Live != nil && e.Live.Deployment == v.Deployment:
		return strings.TrimSpace(e.Live.Release+" "+e.Live.Version) + " (this deployment)"
	case e.Live != nil:
		return fmt.Sprintf("%s (%s, %s)", strings.TrimSpace(e.Live.Release+" "+e.Live.Version), e.Live.Name, stateWord(e.Live.State))
	case v.State == backstay.Held || v.State == backstay.Closed:
		return "a mixture; see the residue"
	}
	return "what was there before Backstay deployed " + v.Release
}

// afterwards is the next command that makes sense.
func (c *call) afterwards(v engine.View) string {
	switch v.State {
	case backstay.Held:
		return fmt.Sprintf("repair, then `backstay rollback %[1]s --retry`, or sign: `backstay rollback %[1]s --close --reason WHY`", v.Name)
	case backstay.RolledBack:
		return "backstay report " + v.Name
	case backstay.Holding:
		_, command := onward(v)
		return command
	case backstay.Running, backstay.Planned, backstay.Approved, backstay.Committed, backstay.RollingBack:
		return "backstay status -w " + v.Name
	case backstay.Proven, backstay.Closed, backstay.Refused:
	}
	return ""
}

func residueCount(list []backstay.Residue) string {
	if len(list) == 0 {
		return ""
	}
	return count(len(list), "thing")
}

func partOf(r backstay.Residue) string {
	if r.Part == "" {
		return ""
	}
	return " (" + r.Part + ")"
}

// residues prints what is not as it was: before, wanted, now, why, what next.
func (p *printer) residues(list []backstay.Residue) {
	_ = report.Residues(p, list) // the printer keeps the error
}

// jsonWord shows a part's value on one line, bounded.
func jsonWord(v json.RawMessage) string {
	const most = 160
	if len(v) == 0 {
		return "absent"
	}
	text := []rune(string(v))
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}
