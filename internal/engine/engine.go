package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Actions is what the engine needs of the step kinds; driver.Registry fits.
type Actions interface {
	Prepare(ctx context.Context, kind string, req backstay.Request) (backstay.Prepared, error)
	PrepareCheck(ctx context.Context, kind string, req backstay.Request) (backstay.Prepared, error)
	Observe(ctx context.Context, call backstay.Call) (backstay.Image, error)
	Do(ctx context.Context, call backstay.Call) (backstay.Result, error)
	Undo(ctx context.Context, call backstay.Call) (backstay.Result, error)
	Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error)
	Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error)
	Reap(ctx context.Context, call backstay.Call) error
	Settle(ctx context.Context, call backstay.Call) error
	Settles(kind string) bool
}

// Judge answers what the checks of a gate ask: what the evidence says so far.
// It is asked again and again while the gate waits; call.Gate says for how
// long. An error counts as undecided. Actions fit.
type Judge interface {
	Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error)
}

// Store is what the engine needs of the ledger; *ledger.Store fits.
type Store interface {
	Start(ctx context.Context) error
	NodeID() string
	Gate(ctx context.Context) (context.Context, context.CancelFunc, error)
	Create(ctx context.Context, d ledger.NewDeployment) (ledger.Lease, error)
	Append(ctx context.Context, lease *ledger.Lease, u ledger.Update) (ledger.Ack, error)
	Claim(ctx context.Context, id string) (ledger.Lease, error)
	ClaimNext(ctx context.Context, limit int) ([]ledger.Lease, error)
	Signals(ctx context.Context, id string) ([]ledger.Signal, error)
	Version(ctx context.Context) (int64, error)
	Deployment(ctx context.Context, id string) (ledger.Deployment, error)
	List(ctx context.Context, f ledger.Filter) ([]ledger.Deployment, error)
	Keys(ctx context.Context, kind string) ([]backstay.Key, error)
	Entries(ctx context.Context, id string, afterN int64) ([]backstay.Entry, error)
	Plan(ctx context.Context, digest string) ([]byte, error)
	SavePlan(ctx context.Context, digest string, data []byte, blobs *ledger.BlobBuffer) error
	NewBlobBuffer(ctx context.Context) *ledger.BlobBuffer
	Timings(ctx context.Context, release string) (map[string]time.Duration, error)
	Resources(ctx context.Context, keys ...backstay.Key) ([]ledger.Resource, error)
	Record(ctx context.Context, e backstay.Entry) (ledger.Head, error)
	Walk(ctx context.Context, q ledger.Query, f func(ledger.Leaf) error) error
	Flag(ctx context.Context, key backstay.Key) (backstay.Flag, error)
	ChangeFlags(ctx context.Context, w ledger.FlagWriter, changes ...backstay.FlagChange) ([]backstay.Flag, error)
}

// Options of an Engine. Zero values mean what each comment says.
type Options struct {
	// DataDir is where this host keeps releases, logs and sockets. Required.
	DataDir string
	// Protected are absolute directories that no step may change, hold or lie
	// in: where the ledger and its key are. A plan with such a step is refused.
	Protected []string
	// Actor is who runs this process, as the kernel reports it.
	Actor backstay.Actor
	// Version of this binary, recorded with every deployment.
	Version string
	// Secrets resolves references; nil refuses every reference.
	Secrets backstay.Secrets
	// Grace is how long an armed check may go without passing at the end of a bake
	// before that counts; zero: 30 s.
	Grace time.Duration
	// Judge answers the checks of gates; nil: the actions do, as in verify.
	Judge Judge
	// Log takes diagnostics; nil discards. What people rely on is in the ledger.
	Log *slog.Logger
	// MemberOf reports whether the actor is named by an approve step's `from`
	// word; nil allows only `user:NAME` of the actor's own name.
	MemberOf func(actor backstay.Actor, word string) bool
	// Watch is called in the driving goroutine with a copy of what is known
	// after every durable change and at every act's start; it must be quick.
	Watch func(View)
	// Output is called with every line that a step's commands print, redacted
	// and clean, as it comes; it must be quick and safe for concurrent use. Nil
	// discards: the ledger keeps what is bounded anyway.
	Output func(step, line string)
	// Failpoint is called at named points; an error stops the process's work
	// on the deployment at once, as a crash would. Tests only; nil otherwise.
	Failpoint func(point, step string) error
	// Poll is how often signals from outside are looked for; zero: 200 ms.
	Poll time.Duration
	// Now is the wall clock, for what people read; nil: time.Now.
	Now func() time.Time
	// Backoff is the first delay between tries of a transient error; zero: 200 ms.
	Backoff time.Duration
}

// Engine drives deployments of one ledger on one host. It is safe for
// concurrent use; each deployment is driven by one goroutine of it.
type Engine struct {
	store   Store
	actions Actions
	opts    Options
}

// New returns an engine.
func New(store Store, actions Actions, opts Options) (*Engine, error) {
	if store == nil || actions == nil {
		return nil, errors.New("new engine: a store and actions are required")
	}
	if opts.DataDir == "" {
		return nil, errors.New("new engine: a data directory is required")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Poll <= 0 {
		opts.Poll = 200 * time.Millisecond
	}
	if opts.Backoff <= 0 {
		opts.Backoff = 200 * time.Millisecond
	}
	if opts.Grace <= 0 {
		opts.Grace = 30 * time.Second
	}
	if opts.Judge == nil {
		opts.Judge = actions
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MemberOf == nil {
		opts.MemberOf = func(a backstay.Actor, word string) bool { return word == "user:"+a.Name }
	}
	return &Engine{store: store, actions: actions, opts: opts}, nil
}

// Start is how a deployment begins.
type Start struct {
	ID          string // UUIDv7
	Plan        *plan.Plan
	Reason      string
	AcceptDrift bool // deploy although a resource differs from what the ledger says
	Detach      bool // leave it to an agent
	// Interrupt: the first value starts an orderly rollback. Ending ctx stops
	// driving at once and leaves a consistent ledger for recover.
	Interrupt <-chan struct{}
}

// Deploy records the plan and drives it to its end (or, detached, only records
// it). A refusal before anything was touched is a *backstay.RefusedError or a
// *ledger.LockedError and leaves one entry in the ledger.
func (e *Engine) Deploy(ctx context.Context, s Start) (Summary, error) {
	if err := e.precheck(ctx, s); err != nil {
		return Summary{}, e.refuse(ctx, s, err)
	}
	digest := s.Plan.Digest()
	if err := e.store.SavePlan(ctx, digest, s.Plan.Encode(), nil); err != nil {
		return Summary{}, fmt.Errorf("save plan: %w", err)
	}
	if err := errors.Join(e.required(ctx, s.Plan), e.mitigating(ctx, s.Plan)); err != nil {
		return Summary{}, e.refuse(ctx, s, err)
	}
	if err := e.shout(ctx, s); err != nil {
		return Summary{}, err
	}
	if err := e.store.Start(ctx); err != nil {
		return Summary{}, fmt.Errorf("register this node: %w", err)
	}
	nd := ledger.NewDeployment{
		ID: s.ID, Release: s.Plan.Release, Version: s.Plan.Version, Environment: s.Plan.Environment,
		PlanDigest: digest, Reverts: s.Plan.Reverts, Author: e.opts.Actor, Locks: s.Plan.Locks, Detached: s.Detach,
	}
	progress := newProgress(s.Plan)
	add := func(kind backstay.EntryKind, body any) error {
		entry := backstay.Entry{Kind: kind, Actor: &e.opts.Actor, Body: backstay.Canonical(body)}
		nd.Entries = append(nd.Entries, entry)
		return progress.apply(entry)
	}
	core := newCore(s.Plan, nil, e.actions.Settles)
	err := add(backstay.EntryPlanned, backstay.PlannedBody{
		PlanDigest: digest, Release: s.Plan.Release, Version: s.Plan.Version, Reverts: s.Plan.Reverts,
		Reason: s.Reason, Tool: e.opts.Version,
	})
	for err == nil && (progress.State == backstay.Planned || progress.State == backstay.Approved) {
		cmd := core.next(progress)[0]
		to, _ := move(progress.State, cmd.event)
		err = add(backstay.EntryTransition, backstay.TransitionBody{From: progress.State, Event: string(cmd.event), To: to, Reason: cmd.reason})
	}
	if err != nil {
		return Summary{}, fmt.Errorf("open deployment: %w", err)
	}
	nd.State = progress.State
	if err := e.hit("create.before", ""); err != nil {
		return Summary{}, err
	}
	lease, err := e.store.Create(ctx, nd)
	if err != nil {
		var locked *ledger.LockedError
		if errors.As(err, &locked) {
			return Summary{}, e.refuse(ctx, s, err)
		}
		return Summary{}, fmt.Errorf("open deployment: %w", err)
	}
	if err := e.hit("create.after", ""); err != nil {
		return Summary{}, err
	}
	if s.Detach {
		return e.Summarise(ctx, s.ID)
	}
	return e.drive(ctx, lease, s.Interrupt, nil)
}

func (e *Engine) now() time.Time { return e.opts.Now().UTC() }

// hit calls the failpoint, if there is one.
func (e *Engine) hit(point, step string) error {
	if e.opts.Failpoint == nil {
		return nil
	}
	return e.opts.Failpoint(point, step)
}

// refuse records a refusal as one entry and returns it. Nothing was touched.
func (e *Engine) refuse(ctx context.Context, s Start, cause error) error {
	body := backstay.RefusedBody{What: "deploy", Release: s.Plan.Release, Plan: s.Plan.Digest(), Error: cause.Error()}
	var refused *backstay.RefusedError
	if errors.As(cause, &refused) {
		body.What, body.Problems = refused.What, refused.Problems
	}
	if _, err := e.store.Record(ctx, backstay.Entry{Kind: backstay.EntryRefused, Actor: &e.opts.Actor, Body: backstay.Canonical(body)}); err != nil {
		return errors.Join(cause, fmt.Errorf("record the refusal: %w", err))
	}
	return cause
}

// Resume takes over an unsettled deployment (or a held one, with a signal that
// moves it) and drives it to its end. It is what recover, rollback of a
// deployment whose process died, and the agent do.
func (e *Engine) Resume(ctx context.Context, id string, interrupt <-chan struct{}, signal *ledger.Signal) (Summary, error) {
	if err := e.store.Start(ctx); err != nil {
		return Summary{}, fmt.Errorf("register this node: %w", err)
	}
	lease, err := e.store.Claim(ctx, id)
	if err != nil {
		return Summary{}, err
	}
	return e.drive(ctx, lease, interrupt, signal)
}

// drive runs the deployment of a lease to its end.
func (e *Engine) drive(ctx context.Context, lease ledger.Lease, interrupt <-chan struct{}, signal *ledger.Signal) (Summary, error) {
	r, err := e.newRunner(ctx, lease)
	if err != nil {
		return Summary{}, err
	}
	r.interrupt = interrupt
	if signal != nil {
		r.takeSignal(*signal)
	}
	if err := r.run(ctx); err != nil {
		return Summary{}, err
	}
	v := r.view() // all of it is durable: run ends with nothing pending
	return Summary{View: v, ExitCode: v.State.ExitCode()}, nil
}
