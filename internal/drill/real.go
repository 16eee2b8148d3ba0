package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/fault"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// LevelReal is the evidence level of real executors on a disposable view of the
// real targets.
const LevelReal = "D2"

// realPatience is how long a cell of that level may take.
const realPatience = 5 * time.Minute

// Job is one cell of level D2: what a process inside a sandbox is told.
type Job struct {
	Plan  json.RawMessage `json:"plan"`
	Real  []string        `json:"real"` // IDs of the steps that are tried; the others are modelled
	Fault string          `json:"fault"`
	Step  string          `json:"step,omitempty"`
	Again bool            `json:"again,omitempty"` // once everything is restored, everything is done again
	// DataDir is the host's; Dir is where relative secret files start; Blobs
	// holds the content that the plan pins, each under its address.
	DataDir string `json:"data_dir"`
	Dir     string `json:"dir"`
	Blobs   string `json:"blobs"`
	// Instead are the values of references to secrets that lead to a stand-in.
	Instead map[string]string `json:"instead,omitempty"`
	// Own are paths of Backstay's: what changes there is nobody's target.
	Own []string `json:"own"`
}

// Tried is what such a process says.
type Tried struct {
	Cell backstay.DrillCell           `json:"cell"`
	Undo map[string]backstay.Duration `json:"undo,omitempty"` // how long undos took, by step
	// Broken are the undos that failed although nothing was made to.
	Broken []backstay.DrillFinding `json:"broken,omitempty"`
	// Stuck is the step at which the deployment turned around, or was refused.
	Stuck string `json:"stuck,omitempty"`
}

// Changed is one path that is not as on the host.
type Changed struct {
	Path string
	What string // one word
	// Entered says that only the time of a directory differs.
	Entered bool
}

// Inside is what a process in a sandbox has.
type Inside struct {
	Actions engine.Actions
	Secrets backstay.Secrets
	Ledger  func(ctx context.Context) (Ledger, error)
	// Furnish starts what a step's keys stand for on the host and is not a file;
	// nil: nothing does.
	Furnish func(ctx context.Context, call backstay.Call) error
	// Targets knows those that are no files; nil: there are none.
	Targets Targets
	// Changes lists what differs from the host, and Processes the programs that
	// run, told apart from whoever wrote or started.
	Changes   func() ([]Changed, error)
	Processes func() ([]string, error)
}

// Try plays one cell of level D2. It must run inside a sandbox: the steps' own
// executors run, with what the plan says.
func Try(ctx context.Context, job Job, in Inside) (Tried, error) {
	p, err := plan.Decode(job.Plan)
	if err != nil {
		return Tried{}, err
	}
	m := newModel(p)
	m.takeReal(p, job.Real)
	f, ok := fault.Find(job.Fault)
	if !ok {
		return Tried{}, fmt.Errorf("there is no fault %q", job.Fault)
	}
	st, _ := m.plan.Step(job.Step)
	c := m.cell(f, st)
	c.level, c.again = LevelReal, job.Again
	if step, err := m.rebind(ctx, job, in); err != nil {
		return c.cannot(step, "it cannot be bound to what stands in for its target: "+err.Error()), nil
	}
	store, err := in.Ledger(ctx)
	if err != nil {
		return Tried{}, err
	}
	defer func() { _ = store.Close() }() // in memory: nothing can be lost
	if err := loadBlobs(ctx, store, job.Blobs); err != nil {
		return Tried{}, err
	}
	t := newTrial(c, m, store, 1, in.Actions.Settles)
	h := &hybrid{world: t.world, real: in.Actions, steps: map[string]bool{}}
	for _, id := range job.Real {
		h.steps[id] = true
	}
	t.inject = fault.New(h, errCrash, c.planted...)
	t.host = engine.Options{DataDir: job.DataDir, Secrets: in.Secrets, Backoff: 50 * time.Millisecond}
	ctx, cancel := context.WithTimeout(ctx, realPatience)
	defer cancel()
	moment := func() int { return t.moment(ctx) }
	t.world.moment, h.moment = moment, moment
	if step, err := h.furnish(ctx, m.plan, in, backstay.Call{DataDir: job.DataDir, Blobs: store.NewBlobBuffer(ctx), Secrets: in.Secrets, Flags: furniture{store}}); err != nil {
		return c.cannot(step, "what runs on the host cannot be started in the sandbox: "+err.Error()), nil
	}
	j := &realJudge{judge: judge{m: m, real: h.steps}, job: job, hybrid: h, in: in}
	if j.ran, err = in.Processes(); err != nil {
		return Tried{}, err
	}
	if step, err := j.rehearse(ctx); err != nil {
		return c.cannot(step, "its target cannot be looked at in the sandbox: "+err.Error()), nil
	}
	j.outcome = t.deploy(ctx)
	return j.judged(ctx)
}

// cannot is a cell that was not run because of a step.
func (c cell) cannot(step, why string) Tried {
	return Tried{Cell: backstay.DrillCell{Level: c.level, Step: c.step, Fault: c.name, Result: backstay.DrillNotRun, Reason: why}, Stuck: step}
}

// furniture puts flags into the drill's own ledger, where no deployment is yet.
type furniture struct{ Ledger }

var _ backstay.Flags = furniture{}

// ChangeFlag makes a change by nobody's step.
func (f furniture) ChangeFlag(ctx context.Context, change backstay.FlagChange) (backstay.Flag, error) {
	out, err := f.ChangeFlags(ctx, ledger.FlagWriter{Actor: backstay.Actor{Name: "drill"}}, change)
	if err != nil {
		return backstay.Flag{}, err
	}
	return out[0], nil
}

// furnish starts what the keys of real steps stand for, each once. It returns
// the step whose kind could not.
func (h *hybrid) furnish(ctx context.Context, p *plan.Plan, in Inside, call backstay.Call) (string, error) {
	done := map[backstay.Key]bool{}
	for _, st := range p.Steps {
		fresh := slices.ContainsFunc(st.Keys, func(k backstay.Key) bool { return !done[k] })
		for _, k := range st.Keys {
			done[k] = true
		}
		if !fresh || !h.steps[st.ID] || in.Furnish == nil {
			continue
		}
		call.Deployment, call.Release, call.Step = "furnished", p.Release, st
		if err := in.Furnish(ctx, call); err != nil {
			return st.ID, err
		}
	}
	return "", nil
}

func loadBlobs(ctx context.Context, store Ledger, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read pinned content: %w", err)
	}
	buffer := store.NewBlobBuffer(ctx)
	for _, e := range entries {
		if err := loadBlob(buffer, filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("read pinned content: %w", err)
		}
	}
	return buffer.Flush(ctx)
}

func loadBlob(buffer *ledger.BlobBuffer, name string) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, _, err = buffer.Put(f)
	return err
}

// takeReal puts steps back into the model's plan as the user's plan has them.
func (m *model) takeReal(p *plan.Plan, ids []string) {
	real := map[string]bool{}
	for _, id := range ids {
		real[id] = true
	}
	for i, st := range p.Steps {
		if real[st.ID] {
			m.plan.Steps[i] = st
		}
	}
	m.plan.Artifacts = p.Artifacts
}

// hybrid is a target whose real steps are done by their own executors, and
// whose other steps are modelled.
type hybrid struct {
	*world
	real   engine.Actions
	steps  map[string]bool
	moment func() int

	mu      sync.Mutex
	outside *outsider
	unable  string // why somebody else could change nothing
}

// outsider is what somebody else wrote to a real file.
type outsider struct {
	step    string
	path    string // that changed
	content string // of it, since
	n       int    // entries of the deployment before it
}

var _ fault.Target = (*hybrid)(nil)

// Observe reads the step's keys.
func (h *hybrid) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	if h.steps[call.Step.ID] {
		return h.real.Observe(ctx, call)
	}
	return h.world.Observe(ctx, call)
}

// Do does the step.
func (h *hybrid) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	if h.steps[call.Step.ID] {
		return h.real.Do(ctx, call)
	}
	return h.world.Do(ctx, call)
}

// Undo takes it back.
func (h *hybrid) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	if h.steps[call.Step.ID] {
		return h.real.Undo(ctx, call)
	}
	return h.world.Undo(ctx, call)
}

// Probe asks whether it was done.
func (h *hybrid) Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error) {
	if h.steps[call.Step.ID] {
		return h.real.Probe(ctx, call)
	}
	return h.world.Probe(ctx, call)
}

// Reap ends what earlier epochs left running.
func (h *hybrid) Reap(ctx context.Context, call backstay.Call) error {
	if h.steps[call.Step.ID] {
		return h.real.Reap(ctx, call)
	}
	return h.world.Reap(ctx, call)
}

// Settle lets go of what the step kept.
func (h *hybrid) Settle(ctx context.Context, call backstay.Call) error {
	if h.steps[call.Step.ID] {
		return h.real.Settle(ctx, call)
	}
	return h.world.Settle(ctx, call)
}

// Half does nothing of a real act: no half can be had of it. The faults that are
// about halves are not run at this level; those that only begin so go on.
func (h *hybrid) Half(ctx context.Context, verb fault.Verb, call backstay.Call) error {
	if h.steps[call.Step.ID] {
		return ctx.Err()
	}
	return h.world.Half(ctx, verb, call)
}

// Outsider changes a file of a real step as somebody else would: it grows, a new
// one appears in a directory, or one appears where nothing was.
func (h *hybrid) Outsider(st backstay.Step) error {
	if !h.steps[st.ID] {
		return h.world.Outsider(st)
	}
	n := h.moment()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range st.Keys {
		if name, ok := strings.CutPrefix(string(k), "file:"); ok {
			done, err := tamper(name)
			if err != nil {
				h.unable = err.Error()
				continue
			}
			done.step, done.n = st.ID, n
			h.outside = &done
			return nil
		}
	}
	if h.unable == "" {
		h.unable = "the step has no file that somebody else could change"
	}
	return nil
}

// tamper changes what lies at a path.
func tamper(name string) (outsider, error) {
	const text = "written by somebody else\n"
	st, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return outsider{}, err
	case st.IsDir():
		name = filepath.Join(name, "written-by-somebody-else")
	case !st.Mode().IsRegular():
		return outsider{}, fmt.Errorf("%s is neither a file nor a directory", name)
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return outsider{}, err
	}
	if _, err := f.WriteString(text); err != nil {
		return outsider{}, errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return outsider{}, err
	}
	content, err := os.ReadFile(name)
	return outsider{path: name, content: string(content)}, err
}
