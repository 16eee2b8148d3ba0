package report

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Format names the version of Report's JSON.
const Format = "backstay.report/v1"

// Entries reads one deployment.
type Entries interface {
	Deployment(ctx context.Context, id string) (ledger.Deployment, error)
	Entries(ctx context.Context, id string, afterN int64) ([]backstay.Entry, error)
	Plan(ctx context.Context, digest string) ([]byte, error)
}

// Heads reads where the ledger stands.
type Heads interface {
	Head(ctx context.Context) (ledger.Head, error)
	ReadCheckpoints(ctx context.Context) ([]ledger.Checkpoint, error)
}

// Source is what a report needs of the ledger.
type Source interface {
	Entries
	Heads
	Walker
	List(ctx context.Context, f ledger.Filter) ([]ledger.Deployment, error)
	// Blobs reads images that are too large to stand in an entry.
	Blobs(ctx context.Context) backstay.Blobs
}

// Report is the story of one deployment.
type Report struct {
	Type        string         `json:"type"`
	Deployment  string         `json:"deployment"`
	Name        string         `json:"name"` // release#number
	Release     string         `json:"release"`
	Version     string         `json:"version,omitempty"`
	Environment string         `json:"environment,omitempty"`
	State       backstay.State `json:"state"`
	Plan        string         `json:"plan"` // digest
	Reverts     string         `json:"reverts,omitempty"`
	RevertedBy  string         `json:"reverted_by,omitempty"`
	Author      backstay.Actor `json:"author"`
	Reason      string         `json:"reason,omitempty"`
	Tool        string         `json:"tool,omitempty"`
	Started     time.Time      `json:"started"`
	Ended       time.Time      `json:"ended,omitzero"`
	Times       Times          `json:"times"`
	Owner       string         `json:"owner,omitempty"` // as the plan says
	Phases      []Phase        `json:"phases"`
	Failure     *Failure       `json:"failure,omitempty"`
	Failed      []FailedAct    `json:"failed_acts,omitempty"`
	Words       map[string]int `json:"failed_acts_by_word,omitempty"` // transient, persistent, systemic, not_told
	Magnitude   Magnitudes     `json:"magnitude"`
	Live        Live           `json:"live"`
	People      []Person       `json:"people,omitempty"`
	Gaps        []Gap          `json:"unaccounted,omitempty"`
	Drill       Drill          `json:"drill"` // the evidence there was when it started
	Questions   []Question     `json:"questions,omitempty"`
	Earlier     []Question     `json:"would_have_helped,omitempty"`
	Steps       []Step         `json:"steps"`
	Approvals   []Signal       `json:"approvals,omitempty"`
	Signals     []Signal       `json:"signals,omitempty"` // other than approvals
	Takeovers   []Takeover     `json:"takeovers,omitempty"`
	Flags       []FlagMove     `json:"flags,omitempty"` // feature flags that it moved, in order
	Verdicts    []Verdict      `json:"verdicts,omitempty"`
	Evidence    []Evidence     `json:"evidence,omitempty"`
	Residue     []Residue      `json:"residue,omitempty"`
	Kept        []Residue      `json:"kept,omitempty"` // outsiders' later values
	Events      []Event        `json:"events"`
	Ledger      Ledger         `json:"ledger"`
}

// Times are measured on the wall clock that entries carry. What cannot be
// told (it has not happened, or the clock was set back) is nil.
type Times struct {
	// Total is from planned to settled.
	Total *backstay.Duration `json:"total,omitempty"`
	// Detect is from the start of what failed to the record of its failure.
	Detect *backstay.Duration `json:"detect,omitempty"`
	// Contain is from the record of the failure until users were back: until the
	// dials that had been moved were moved back. Where none was moved, until the
	// deployment turned around or was held: from then on nothing new of it takes
	// effect. It is nil while a dial is not back.
	Contain *backstay.Duration `json:"contain,omitempty"`
	// Undo is the time spent rolling back.
	Undo *backstay.Duration `json:"undo,omitempty"`
	// Exposed is from the first intent until everything was taken back: how
	// long a user could meet something of it. Only of one that was rolled back.
	Exposed *backstay.Duration `json:"exposed,omitempty"`
	// Waited is the time that it held for people or evidence.
	Waited *backstay.Duration `json:"waited,omitempty"`
	// Unaccounted is the sum of Gaps.
	Unaccounted *backstay.Duration `json:"unaccounted,omitempty"`
}

// Phase is a state and since when it lasted.
type Phase struct {
	State backstay.State `json:"state"`
	From  time.Time      `json:"from"`
}

// FailedAct is one attempt of a step, or of its undo, that failed.
type FailedAct struct {
	Step    string              `json:"step"`
	Act     string              `json:"act"` // do or undo
	Attempt int                 `json:"attempt,omitempty"`
	Tries   int                 `json:"tries,omitempty"` // within the attempt
	Class   backstay.ErrorClass `json:"class,omitempty"`
	Word    string              `json:"word"` // transient, persistent, systemic; not_told: no class was recorded
	Cause   backstay.Cause      `json:"cause,omitempty"`
	Error   string              `json:"error,omitempty"`
	At      time.Time           `json:"at"`
}

// Person is somebody who acted, and how, in the order of the first time.
type Person struct {
	Actor backstay.Actor `json:"actor"`
	Did   []string       `json:"did"`
}

// Gap is a stretch of time in which the ledger says of nothing that it was done.
type Gap struct {
	From time.Time         `json:"from"`
	To   time.Time         `json:"to"`
	Took backstay.Duration `json:"took"`
	Why  string            `json:"why"`
}

// Question is one that the facts raise: what they are, and what to do next.
type Question struct {
	ID   string `json:"id"` // of the rule that raised it
	Step string `json:"step,omitempty"`
	Text string `json:"text"`
	Next string `json:"next,omitempty"`
}

// Failure is the first reason for which the deployment turned around.
type Failure struct {
	Step   string              `json:"step,omitempty"`
	Check  string              `json:"check,omitempty"` // verify or bake
	Cause  backstay.Cause      `json:"cause,omitempty"`
	Class  backstay.ErrorClass `json:"class,omitempty"`
	Word   string              `json:"word,omitempty"` // transient, persistent or systemic
	Leads  []backstay.Lead     `json:"leads,omitempty"`
	Reason string              `json:"reason,omitempty"`
	Hint   string              `json:"hint,omitempty"`
	Output string              `json:"output,omitempty"` // the end of what the step printed
	At     time.Time           `json:"at"`
}

// Step is one step's part.
type Step struct {
	ID       string             `json:"id"`
	Seq      int                `json:"seq,omitempty"`
	Kind     string             `json:"kind,omitempty"`
	Stage    string             `json:"stage,omitempty"`
	Summary  string             `json:"summary,omitempty"`
	Class    backstay.Class     `json:"class,omitempty"`
	Keys     []backstay.Key     `json:"keys,omitempty"`
	Wait     bool               `json:"wait,omitempty"` // for people
	Result   string             `json:"result"`         // "not begun", "begun", "done" or "failed"
	Attempts int                `json:"attempts,omitempty"`
	Began    time.Time          `json:"began,omitzero"`
	Ended    time.Time          `json:"ended,omitzero"`
	Took     *backstay.Duration `json:"took,omitempty"`
	Error    string             `json:"error,omitempty"`
	Hint     string             `json:"hint,omitempty"`
	Output   string             `json:"output,omitempty"`
	Note     string             `json:"note,omitempty"`
	// Finding is what recovery found about an attempt whose process died.
	Finding backstay.Finding `json:"finding,omitempty"`
	Changes []Change         `json:"changes,omitempty"`
	More    int              `json:"more_changes,omitempty"` // beyond the listed ones
	Undo    *Undo            `json:"undo,omitempty"`
}

// FlagMove is one move of a feature flag, and when it was taken back.
type FlagMove struct {
	Flag string       `json:"flag"`
	Key  backstay.Key `json:"key"`
	Step string       `json:"step"`
	What string       `json:"what"`
	At   time.Time    `json:"at"`
	Back time.Time    `json:"back,omitzero"`
}

// Undo is how a step was taken back.
type Undo struct {
	Result string             `json:"result"` // restored, compensated, untouched, kept, failed; begun
	Began  time.Time          `json:"began,omitzero"`
	Ended  time.Time          `json:"ended,omitzero"`
	Took   *backstay.Duration `json:"took,omitempty"`
	Cause  backstay.Cause     `json:"cause,omitempty"`
	Error  string             `json:"error,omitempty"`
	Output string             `json:"output,omitempty"`
	Note   string             `json:"note,omitempty"`
	With   string             `json:"with,omitempty"` // the step whose undo took this one back too
}

// Signal is what a person or program asked.
type Signal struct {
	Signal   string         `json:"signal"`
	Step     string         `json:"step,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Accepted bool           `json:"accepted"`
	Why      string         `json:"why,omitempty"` // it was refused
	Actor    backstay.Actor `json:"actor"`
	At       time.Time      `json:"at"`
	// Alarm is what was reported from outside, of fail and resolved.
	Alarm *backstay.Alarm `json:"alarm,omitempty"`
}

// Takeover is a change of the node that drives.
type Takeover struct {
	Node     string    `json:"node"`
	Previous string    `json:"previous,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	At       time.Time `json:"at"`
}

// Verdict is one evaluation of a check with its samples.
type Verdict struct {
	Phase   string            `json:"phase"`
	Check   string            `json:"check"` // the phase's own name: the sum of the round
	Verdict backstay.Verdict  `json:"verdict"`
	Reason  string            `json:"reason,omitempty"`
	Samples int               `json:"samples,omitempty"`
	Took    backstay.Duration `json:"took,omitzero"`
	At      time.Time         `json:"at"`
}

// Evidence is what a check could show in numbers at one moment.
type Evidence struct {
	Check   string           `json:"check"`
	Step    string           `json:"step"` // the gate
	At      time.Time        `json:"at"`
	Verdict backstay.Verdict `json:"verdict"`
	backstay.Evidence
}

// Residue is a part that is not as before, with its values as people read them.
type Residue struct {
	backstay.Residue
	Was   string `json:"was"`
	Want  string `json:"want,omitempty"`
	Reads string `json:"reads"`
}

// Event is one line of the timeline.
type Event struct {
	At     time.Time          `json:"at"`
	After  backstay.Duration  `json:"after"` // since the start
	Kind   backstay.EntryKind `json:"kind"`
	Step   string             `json:"step,omitempty"`
	Text   string             `json:"text"`
	Weight string             `json:"weight,omitempty"` // bad, good, undo: for colours
}

// Ledger says where the evidence is.
type Ledger struct {
	Size       int64     `json:"size"`
	Root       string    `json:"root"`       // base64
	Checkpoint int64     `json:"checkpoint"` // size that the newest stored checkpoint covers; 0: none
	SignedAt   time.Time `json:"signed_at,omitzero"`
}

// Timeline builds the report of the deployment with this ID. A deployment that
// is under way gets a report of what happened so far.
func Timeline(ctx context.Context, src Source, id string) (*Report, error) {
	dep, err := src.Deployment(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("report on %s: %w", id, err)
	}
	entries, err := src.Entries(ctx, dep.ID, 0)
	if err != nil {
		return nil, fmt.Errorf("report on %s: %w", dep.Name, err)
	}
	data, err := src.Plan(ctx, dep.PlanDigest)
	if err != nil {
		return nil, fmt.Errorf("report on %s: read its plan: %w", dep.Name, err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("report on %s: %w", dep.Name, err)
	}
	r := &Report{
		Type: Format, Deployment: dep.ID, Name: dep.Name, Release: dep.Release, Version: dep.Version, Environment: dep.Environment, Owner: p.Owner,
		Plan: dep.PlanDigest, Reverts: dep.Reverts, RevertedBy: dep.RevertedBy, Author: dep.Author,
	}
	b := newBuilder(r, p, src.Blobs(ctx))
	for _, e := range entries {
		if err := b.take(e); err != nil {
			return nil, fmt.Errorf("report on %s: read entry %d (%s): %w", dep.Name, e.N, e.Kind, err)
		}
	}
	if err := b.finish(); err != nil {
		return nil, fmt.Errorf("report on %s: %w", dep.Name, err)
	}
	if err := r.locate(ctx, src); err != nil {
		return nil, err
	}
	return r, r.surround(ctx, src, dep, p)
}

// surround adds what follows from other entries than the deployment's own: what
// was in effect, earlier failures, the drill; and then what is left to ask.
func (r *Report) surround(ctx context.Context, src Source, dep ledger.Deployment, p *plan.Plan) error {
	good, err := src.List(ctx, ledger.Filter{
		Release: dep.Release, States: []backstay.State{backstay.Committed, backstay.Proven}, Limit: manyDeployments,
	})
	if err != nil {
		return fmt.Errorf("report on %s: what was in effect: %w", r.Name, err)
	}
	dep.State = r.State
	r.Live = liveAround(dep, good)
	if r.Drill, err = newestDrill(ctx, src, dep.Release, dep.PlanDigest, r.Started); err != nil {
		return fmt.Errorf("report on %s: %w", r.Name, err)
	}
	before, err := pastOf(ctx, src, dep.Release, dep.Environment, dep.Number)
	if err != nil {
		return fmt.Errorf("report on %s: %w", r.Name, err)
	}
	r.Questions, r.Earlier = questions(r, p), wouldHaveHelped(r, p, before)
	return nil
}

// manyDeployments bounds how far back one looks for what was in effect.
const manyDeployments = 10_000

// locate notes where the ledger stands.
func (r *Report) locate(ctx context.Context, src Heads) error {
	head, err := src.Head(ctx)
	if err != nil {
		return fmt.Errorf("report on %s: read ledger head: %w", r.Name, err)
	}
	r.Ledger = Ledger{Size: head.Size, Root: tlog.Hash(head.Root).String()}
	checkpoints, err := src.ReadCheckpoints(ctx)
	if err != nil {
		return fmt.Errorf("report on %s: read checkpoints: %w", r.Name, err)
	}
	for _, c := range checkpoints {
		if c.Size > r.Ledger.Checkpoint {
			r.Ledger.Checkpoint, r.Ledger.SignedAt = c.Size, c.At
		}
	}
	return nil
}
