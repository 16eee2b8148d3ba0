package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

func (c *call) driftCommand() *cobra.Command {
	var f driftFlags
	cmd := c.command("drift [flags]", "Compare the world with the ledger",
		"Reads every resource that a settled deployment left behind and compares it with what the ledger\nsays. Exit code 2 when something differs. --fix restores it, as a deployment with its own undo.\nWhat deployments under way hold is left out.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.drift(ctx, f) })
	cmd.Flags().BoolVar(&f.fix, "fix", false, "put what differs back to what the ledger says")
	cmd.Flags().StringVar(&f.release, "release", "", "only resources of this release")
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, for the ledger (with --fix)")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask before --fix")
	return cmd
}

type driftFlags struct {
	fix, yes        bool
	release, reason string
}

// driftDocument is the result of drift.
type driftDocument struct {
	Format    string         `json:"format"`
	Resources int            `json:"resources"` // compared
	Drift     []driftedEntry `json:"drift"`
	Skipped   []skippedEntry `json:"skipped"`
	ExitCode  int            `json:"exit_code"`
}

// driftedEntry is one resource that is not as the ledger says.
type driftedEntry struct {
	Key        backstay.Key  `json:"key"`
	Deployment string        `json:"deployment"`
	Name       string        `json:"name"`
	Step       string        `json:"step"`
	Unreadable string        `json:"unreadable,omitempty"`
	Parts      []driftedPart `json:"parts,omitempty"`
}

// driftedPart is one part of a resource that differs; nil is absent.
type driftedPart struct {
	Part   string          `json:"part"`
	Ledger json.RawMessage `json:"ledger"`
	Now    json.RawMessage `json:"now"`
}

// skippedEntry is a resource that was not compared.
type skippedEntry struct {
	Key backstay.Key `json:"key"`
	Why string       `json:"why"`
}

// driftOf is what was found of one deployment's resources.
type driftOf struct {
	dep      ledger.Deployment
	plan     *plan.Plan
	believed map[backstay.Key]ledger.Resource
	images   map[string]backstay.Image // as they are now, by step
	drifted  []driftedEntry
}

func (c *call) drift(ctx context.Context, f driftFlags) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return c.nothingYet(err, true)
	}
	defer s.close()
	e, err := s.here()
	if err != nil {
		return err
	}
	doc := driftDocument{Format: c.format(), Drift: []driftedEntry{}, Skipped: []skippedEntry{}}
	found, err := s.findDrift(ctx, e, f.release, &doc)
	if err != nil {
		return err
	}
	if len(doc.Drift) > 0 {
		doc.ExitCode = exitDriftFound
	}
	if f.fix && len(doc.Drift) > 0 {
		if !c.json {
			s.printDrift(doc)
		}
		return s.fixDrift(ctx, e, found, f)
	}
	if c.json {
		return errors.Join(c.out.document(doc), exit(doc.ExitCode))
	}
	s.printDrift(doc)
	return exit(doc.ExitCode)
}

// findDrift compares every resource of the ledger with the world.
func (s *session) findDrift(ctx context.Context, e *engine.Engine, release string, doc *driftDocument) ([]driftOf, error) {
	known, err := s.store.Resources(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ledger's resources: %w", err)
	}
	byDeployment := map[string]map[backstay.Key]ledger.Resource{}
	for _, r := range known {
		if byDeployment[r.Deployment] == nil {
			byDeployment[r.Deployment] = map[backstay.Key]ledger.Resource{}
		}
		byDeployment[r.Deployment][r.Key] = r
	}
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the locks: %w", err)
	}
	var out []driftOf
	for _, id := range slices.Sorted(maps.Keys(byDeployment)) {
		dep, err := s.store.Deployment(ctx, id)
		if err != nil {
			return nil, err
		}
		if release != "" && dep.Release != release {
			continue
		}
		d := driftOf{dep: dep, believed: byDeployment[id]}
		if d.plan, _, err = e.Replay(ctx, id); err != nil {
			return nil, err
		}
		d.images = e.Look(ctx, d.plan)
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		d.compare(locks, doc)
		if len(d.drifted) > 0 {
			out = append(out, d)
		}
	}
	return out, nil
}

func (d *driftOf) compare(locks []ledger.Lock, doc *driftDocument) {
	for _, k := range slices.Sorted(maps.Keys(d.believed)) {
		was := d.believed[k]
		now, seen := d.images[was.Step][k]
		held := lockedBy(locks, []backstay.Key{k})
		switch {
		case held != nil:
			doc.Skipped = append(doc.Skipped, skippedEntry{k, fmt.Sprintf("deployment %s holds it (%s)", held.Lock.Name, stateWord(held.Lock.State))})
			continue
		case !seen:
			doc.Skipped = append(doc.Skipped, skippedEntry{k, "its step cannot be looked at"})
			continue
		case was.State.Opaque || now.Opaque:
			doc.Skipped = append(doc.Skipped, skippedEntry{k, "nothing can read it"})
			continue
		case was.State.Unreadable != "":
			doc.Skipped = append(doc.Skipped, skippedEntry{k, "it could not be read when its deployment ended"})
			continue
		}
		doc.Resources++
		entry := driftedEntry{Key: k, Deployment: d.dep.ID, Name: d.dep.Name, Step: was.Step, Unreadable: now.Unreadable}
		if now.Unreadable == "" {
			entry.Parts = differingParts(was.State, now)
		}
		if entry.Unreadable != "" || len(entry.Parts) > 0 {
			d.drifted = append(d.drifted, entry)
			doc.Drift = append(doc.Drift, entry)
		}
	}
}

// differingParts lists the parts in which two states differ.
func differingParts(was, now backstay.ResourceState) []driftedPart {
	all := map[string]bool{}
	for p := range was.Parts {
		all[p] = true
	}
	for p := range now.Parts {
		all[p] = true
	}
	var out []driftedPart
	for _, p := range slices.Sorted(maps.Keys(all)) {
		if !bytes.Equal(was.Parts[p], now.Parts[p]) {
			out = append(out, driftedPart{p, was.Parts[p], now.Parts[p]})
		}
	}
	return out
}

// maxDriftParts bounds the parts of one resource that are shown.
const maxDriftParts = 10

func (s *session) printDrift(doc driftDocument) {
	p := s.c.out
	for _, d := range doc.Drift {
		p.line("%s  is not as %s left it (step %s)", p.paint(badTone, string(d.Key)), d.Name, d.Step)
		if d.Unreadable != "" {
			p.line("    cannot be read: %s", d.Unreadable)
		}
		for i, part := range d.Parts {
			if i == maxDriftParts {
				p.line("    … and %d more parts", len(d.Parts)-i)
				break
			}
			p.line("    %s", orWord(part.Part, "value"))
			p.line("      ledger  %s", jsonWord(part.Ledger))
			p.line("      now     %s", jsonWord(part.Now))
		}
	}
	for _, k := range doc.Skipped {
		p.line("%s  not compared: %s", k.Key, k.Why)
	}
	if len(doc.Drift) == 0 {
		p.line("%s compared, no drift", count(doc.Resources, "resource"))
		return
	}
	p.line("%s compared, %d drifted", count(doc.Resources, "resource"), len(doc.Drift))
	p.line("  restore: backstay drift --fix    or deploy over it: backstay deploy --accept-drift")
}

// fixDrift restores what drifted, one deployment for each that left it.
func (s *session) fixDrift(ctx context.Context, e *engine.Engine, found []driftOf, f driftFlags) error {
	if !f.yes {
		if err := s.c.confirm(ctx, "Restore what drifted?"); err != nil {
			return err
		}
	}
	for _, d := range found {
		done, err := d.toRestore()
		if err != nil {
			return err
		}
		for _, r := range done {
			if err := e.StoreImages(ctx, r.Before); err != nil {
				return err
			}
		}
		p, err := plan.Restore(d.plan, d.dep.ID, d.dep.Name, done)
		if err != nil {
			return err
		}
		sum, err := s.deployMade(ctx, p, engine.Start{AcceptDrift: true, Reason: orWord(f.reason, "restore what drifted since "+d.dep.Name)})
		if err != nil {
			return err
		}
		if err := s.end(ctx, sum); err != nil {
			return err
		}
	}
	return nil
}

// toRestore is the material of a restoring plan: for each step with drift, its
// keys as the ledger believes them.
func (d *driftOf) toRestore() ([]plan.Done, error) {
	var out []plan.Done
	for _, entry := range d.drifted {
		if entry.Unreadable != "" {
			return nil, &backstay.RefusedError{
				What: "drift fix", Err: fmt.Errorf("%s cannot be read: %s", entry.Key, entry.Unreadable), Hint: "make it readable first",
			}
		}
		if slices.ContainsFunc(out, func(r plan.Done) bool { return r.Step == entry.Step }) {
			continue
		}
		now := d.images[entry.Step]
		before := maps.Clone(now)
		for k := range now {
			if was, ok := d.believed[k]; ok && was.Step == entry.Step {
				before[k] = was.State
			}
		}
		out = append(out, plan.Done{Step: entry.Step, Before: before, Now: now})
	}
	return out, nil
}
