package report

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// RunbookFormat names the version of Runbook's JSON.
const RunbookFormat = "backstay.runbook/v1"

// Runbook is what people need to know of one plan before, while and after it
// runs. Everything in it follows from the plan, the rules and the ledger: it
// changes when they change, and nothing is written by hand.
type Runbook struct {
	Format      string              `json:"format"`
	Release     string              `json:"release"`
	Version     string              `json:"version,omitempty"`
	Environment string              `json:"environment,omitempty"`
	Owner       string              `json:"owner,omitempty"`
	Plan        string              `json:"plan"`                 // digest
	Deployment  string              `json:"deployment,omitempty"` // name of the one it was asked for
	Reverts     string              `json:"reverts,omitempty"`
	AsOf        time.Time           `json:"as_of"` // ages and expiry are counted to this moment
	Command     string              `json:"command,omitempty"`
	Promise     plan.Promise        `json:"promise"`
	Inputs      []plan.Input        `json:"inputs,omitempty"`
	Artifacts   []backstay.Artifact `json:"artifacts,omitempty"`
	Steps       []RunbookStep       `json:"steps"`
	Verify      []RunbookCheck      `json:"verify"`
	Bake        plan.Bake           `json:"bake"`
	Approvals   []RunbookApproval   `json:"approvals"`
	Budget      Budget              `json:"rollback_budget"`
	Locks       []backstay.Key      `json:"locks"`
	Held        []RunbookCause      `json:"when_held"`
	Back        []backstay.Command  `json:"take_back"`
	Moves       []Move              `json:"transitions"`
	Drill       Drill               `json:"drill"`
	Past        *Past               `json:"past,omitempty"` // nil: no ledger was read
}

// RunbookStep is one step: what to type, what to expect, what can go wrong.
type RunbookStep struct {
	ID           string               `json:"id"`
	Seq          int                  `json:"seq"`
	Stage        string               `json:"stage,omitempty"`
	Kind         string               `json:"kind"`
	Needs        []string             `json:"needs,omitempty"`
	Summary      string               `json:"summary"`
	UndoSummary  string               `json:"undo_summary,omitempty"`
	Commands     backstay.Explanation `json:"commands"`
	Expect       []Expected           `json:"expect,omitempty"`
	MoreExpected int                  `json:"more_expected,omitempty"`
	Keys         []backstay.Key       `json:"keys,omitempty"`
	Class        backstay.Class       `json:"class"`
	Modulo       []string             `json:"modulo,omitempty"`
	Effect       backstay.Effect      `json:"effect"`
	Fence        backstay.Fence       `json:"fence"`
	Window       backstay.Duration    `json:"window,omitzero"`
	Pivot        bool                 `json:"pivot,omitempty"`
	AfterPivot   bool                 `json:"after_pivot,omitempty"`
	Irreversible string               `json:"irreversible,omitempty"`
	Dial         backstay.Key         `json:"dial,omitempty"` // moves of it are taken back in one
	Timeout      backstay.Duration    `json:"timeout"`
	UndoTimeout  backstay.Duration    `json:"undo_timeout,omitzero"`
	Retries      int                  `json:"retries,omitempty"`
	UndoTook     *backstay.Duration   `json:"undo_took,omitempty"` // measured; nil: never undone here
	Secrets      []string             `json:"secrets,omitempty"`   // references
	Warnings     []string             `json:"warnings,omitempty"`
	Modes        []Mode               `json:"failure_modes"`
	Took         *Spread              `json:"took,omitempty"` // in past deployments
	Failed       []PastFailure        `json:"failed,omitempty"`

	hold *backstay.Hold
}

// Expected is one part of one resource as it is when the step is done.
type Expected struct {
	Key  backstay.Key `json:"key"`
	Part string       `json:"part,omitempty"`
	Want string       `json:"want"`
}

// Mode is one line of a decision tree: what happens, what Backstay does then,
// and what can follow.
type Mode struct {
	If   string `json:"if"`
	Then string `json:"then"`
	Sub  []Mode `json:"sub,omitempty"`
}

// RunbookCheck is a verify probe.
type RunbookCheck struct {
	ID       string             `json:"id"`
	Summary  string             `json:"summary"`
	Commands []backstay.Command `json:"commands"`
	Within   backstay.Duration  `json:"within,omitzero"`
	Every    backstay.Duration  `json:"every,omitzero"`
	Timeout  backstay.Duration  `json:"timeout,omitzero"`
}

// RunbookApproval is a wait for people.
type RunbookApproval struct {
	Step string `json:"step"`
	backstay.Hold
	Before []string `json:"before,omitempty"` // irreversible steps that come after it
}

// Budget is the time that a rollback may take, and what it is known to take.
type Budget struct {
	Within     backstay.Duration `json:"within,omitzero"` // zero: no budget
	Measured   backstay.Duration `json:"measured"`
	Unmeasured []string          `json:"unmeasured,omitempty"` // steps never undone here
	Fits       bool              `json:"fits"`                 // the measured part does
	Stages     []plan.Stage      `json:"stages,omitempty"`
}

// RunbookCause is one reason for which a deployment is held.
type RunbookCause struct {
	Cause   backstay.Cause `json:"cause"`
	Meaning string         `json:"meaning"`
	Next    string         `json:"next"`
	Steps   []string       `json:"steps,omitempty"` // of this plan that can lead to it
}

// Move is one row of the transition table.
type Move struct {
	From  backstay.State `json:"from"`
	Event string         `json:"event"`
	To    backstay.State `json:"to"`
	Why   string         `json:"why"`
}

// Rules are what the engine and the step kinds say: the caller hands them in.
type Rules struct {
	Moves []Move
	// Causes are those that justify a held deployment, with what they mean.
	Causes []RunbookCause
	// Explain says which commands a person would type for a step or check.
	Explain func(backstay.Step) (backstay.Explanation, error)
}

// RunbookSource is what a runbook reads of the ledger.
type RunbookSource interface {
	Walker
	Lister
	Timings(ctx context.Context, release string) (map[string]time.Duration, error)
}

// Occasion is for what a runbook is made.
type Occasion struct {
	AsOf       time.Time
	Deployment string // its name; "": of no deployment yet
	Command    string // that runs exactly this plan
}

// NewRunbook makes the runbook of a plan. src is nil where there is no ledger.
func NewRunbook(ctx context.Context, p *plan.Plan, src RunbookSource, rules Rules, on Occasion) (*Runbook, error) {
	r := &Runbook{
		Format: RunbookFormat, Release: p.Release, Version: p.Version, Environment: p.Environment, Owner: p.Owner, Plan: p.Digest(),
		Deployment: on.Deployment, Reverts: p.Reverts, AsOf: on.AsOf.UTC(), Command: on.Command, Promise: p.Promise, Inputs: p.Inputs, Artifacts: p.Artifacts,
		Steps: []RunbookStep{}, Verify: []RunbookCheck{}, Approvals: []RunbookApproval{}, Bake: p.Bake, Locks: p.Locks, Moves: rules.Moves,
		Drill: Drill{Status: drillNone},
	}
	undo := map[string]time.Duration{}
	if src != nil {
		var err error
		if undo, err = src.Timings(ctx, p.Release); err != nil {
			return nil, fmt.Errorf("runbook of %s: read the measured undo times: %w", p.Release, err)
		}
		if r.Drill, err = newestDrill(ctx, src, p.Release, r.Plan, on.AsOf); err != nil {
			return nil, fmt.Errorf("runbook of %s: %w", p.Release, err)
		}
		past, err := pastOf(ctx, src, p.Release, p.Environment, 0)
		if err != nil {
			return nil, fmt.Errorf("runbook of %s: %w", p.Release, err)
		}
		r.Past = &past
	}
	r.addDrilled(undo)
	l := newLife(p, rules.Moves)
	for _, st := range p.Steps {
		r.Steps = append(r.Steps, l.runbookStep(st, rules, undo, r.Past))
		if st.Hold != nil {
			r.Approvals = append(r.Approvals, RunbookApproval{Step: st.ID, Hold: *st.Hold, Before: l.irreversibleAfter(st.ID)})
		}
	}
	for _, c := range p.Verify {
		e := explained(rules, backstay.Step{ID: c.ID, Prepared: c.Prepared})
		r.Verify = append(r.Verify, RunbookCheck{ID: c.ID, Summary: c.Summary, Commands: e.Do, Within: c.Within, Every: c.Every, Timeout: c.Timeout})
	}
	r.Budget = budgetOf(p, undo)
	for _, c := range rules.Causes {
		c.Steps = l.leadingTo(c.Cause)
		r.Held = append(r.Held, c)
	}
	r.Back = r.takeBack()
	return r, nil
}

// addDrilled fills in what only a drill measured.
func (r *Runbook) addDrilled(undo map[string]time.Duration) {
	if r.Drill.Status != drillValid {
		return
	}
	for step, took := range r.Drill.Undo {
		if _, real := undo[step]; !real {
			undo[step] = took.Std()
		}
	}
}

func budgetOf(p *plan.Plan, undo map[string]time.Duration) Budget {
	t := plan.Preview{Plan: p, Undo: undo}.UndoTime()
	return Budget{Within: t.Within, Measured: backstay.Duration(t.Measured), Unmeasured: t.Unmeasured, Fits: t.Fits, Stages: p.Stages}
}

// maxExpected bounds the wanted parts that are listed of one step.
const maxExpected = 12

// runbookStep says everything about one step.
func (l *life) runbookStep(st backstay.Step, rules Rules, undo map[string]time.Duration, past *Past) RunbookStep {
	e := explained(rules, st)
	if st.Reverts != nil {
		e = reverted(st, e)
	}
	s := RunbookStep{
		ID: st.ID, Seq: st.Seq, Stage: st.Stage, Kind: st.Kind, Needs: st.Needs, Summary: st.Summary, UndoSummary: st.UndoSummary, Commands: e,
		Keys: st.Keys, Class: st.Class, Modulo: st.Modulo, Effect: st.Effect, Fence: st.Fence, Window: st.Window, Pivot: st.Pivot,
		AfterPivot: l.afterPivot(st.ID), Irreversible: st.Irreversible, Dial: st.Dial, Timeout: st.Timeout, UndoTimeout: st.UndoTimeout, Retries: st.Retries,
		Secrets: st.Secrets, Warnings: st.Warnings, Modes: l.modes(st, e), hold: st.Hold,
	}
	for _, k := range st.Want.Keys() {
		for _, part := range sortedParts(st.Want[k]) {
			if len(s.Expect) == maxExpected {
				s.MoreExpected++
				continue
			}
			s.Expect = append(s.Expect, Expected{k, part, Value(st.Want[k].Parts[part])})
		}
		if len(st.Want[k].Parts) == 0 && !st.Want[k].Opaque {
			s.Expect = append(s.Expect, Expected{Key: k, Want: absent})
		}
	}
	if took, ok := undo[st.ID]; ok && st.HasUndo {
		d := backstay.Duration(took)
		s.UndoTook = &d
	}
	if past != nil {
		if took, ok := past.Steps[st.ID]; ok {
			s.Took = &took
		}
		for _, f := range past.Failures {
			if f.Step == st.ID {
				s.Failed = append(s.Failed, f)
			}
		}
	}
	return s
}

// explained are the commands of a step or check. Where its kind cannot say them
// (another version planned it), what the plan says in words stands in for them:
// a runbook with a gap is better than none.
func explained(rules Rules, st backstay.Step) backstay.Explanation {
	e, err := rules.Explain(st)
	if err == nil {
		return e
	}
	e = backstay.Explanation{Do: []backstay.Command{{Note: st.Summary + " (its commands are not known: " + err.Error() + ")"}}}
	if st.UndoSummary != "" {
		e.Undo = []backstay.Command{{Note: st.UndoSummary}}
	}
	if st.ReadSummary != "" {
		e.Read = []backstay.Command{{Note: st.ReadSummary}}
	}
	return e
}

// reverted are the commands of a step that takes an earlier one back: its do is
// that step's undo, and the other way round.
func reverted(st backstay.Step, e backstay.Explanation) backstay.Explanation {
	note := fmt.Sprintf("brings back what step %s of deployment %s had found", st.Reverts.Step, st.Reverts.Deployment)
	out := backstay.Explanation{Do: append([]backstay.Command{{Note: note}}, e.Undo...), Read: e.Read}
	if st.Restorable {
		out.Undo = []backstay.Command{{Note: "Backstay puts back what is there now, from its before-image"}}
	} else {
		out.Undo = e.Do
	}
	return out
}

func sortedParts(s backstay.ResourceState) []string {
	names := make([]string, 0, len(s.Parts))
	for p := range s.Parts {
		names = append(names, p)
	}
	slices.Sort(names)
	return names
}

// ref is how commands name the deployment.
func (r *Runbook) ref() string {
	if r.Deployment != "" {
		return "'" + r.Deployment + "'"
	}
	return `"$DEPLOYMENT"`
}

// takeBack are the commands after the commit.
func (r *Runbook) takeBack() []backstay.Command {
	ref := r.ref()
	for _, s := range r.Steps {
		if s.Pivot {
			return []backstay.Command{
				{Note: "it is refused: step " + s.ID + " cannot be taken back (" + s.Irreversible + "); deploy forward what you want instead"},
				{Note: "before that step it still turns around", Line: "backstay rollback " + ref + ` --reason "why"`},
			}
		}
	}
	return []backstay.Command{
		{Note: "while it bakes: this deployment itself turns around", Line: "backstay rollback " + ref + ` --reason "why"`},
		{Note: "once it is proven: the same makes a new, linked deployment with an undo of its own, shown first; what others changed since is kept or refuses it", Line: "backstay rollback " + ref},
	}
}

// WriteJSON writes the runbook as a document of RunbookFormat.
func (r *Runbook) WriteJSON(w io.Writer) error { return writeJSON(r, w) }

// writeJSON writes a value as indented JSON that can be shown.
func writeJSON(v any, w io.Writer) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return writeShown(data, w)
}
