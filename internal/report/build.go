package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Words of a step's result.
const (
	notBegun = "not begun"
	begun    = "begun"
	done     = "done"
	failed   = "failed"
)

// builder reads entries into a report.
type builder struct {
	report *Report
	blobs  backstay.Blobs
	steps  map[string]*stepBuilder
	order  []*stepBuilder
	said   map[string]said // by check: what it said last

	turned     time.Time     // when the present rollback began
	undoing    time.Duration // of rollbacks that ended
	undone     bool
	applied    time.Time // the last outcome: verification begins there
	committed  time.Time
	failedFrom time.Time // when what failed first had begun
	contained  time.Time // the first turn or hold after the failure, or when the last dial was moved back
	touched    time.Time // the first intent that touched something
	waited     time.Duration
	busy       busy
	people     people
}

// stepBuilder is a step with its images.
type stepBuilder struct {
	Step
	before, after *backstay.ImageRef
	touched       bool
	hold          bool
	dial          bool
}

func newBuilder(r *Report, p *plan.Plan, blobs backstay.Blobs) *builder {
	b := &builder{report: r, blobs: blobs, steps: make(map[string]*stepBuilder, len(p.Steps))}
	for _, s := range p.Steps {
		sb := &stepBuilder{hold: s.Hold != nil, dial: s.Dial != "", Step: Step{
			ID: s.ID, Wait: s.Hold != nil, Seq: s.Seq, Kind: s.Kind, Stage: s.Stage, Summary: s.Summary, Class: s.Class, Keys: s.Keys, Result: notBegun,
		}}
		b.steps[s.ID] = sb
		b.order = append(b.order, sb)
	}
	return b
}

// step returns the named step; one that the plan does not have is added.
func (b *builder) step(id string) *stepBuilder {
	s, ok := b.steps[id]
	if !ok {
		s = &stepBuilder{Step: Step{ID: id, Result: notBegun}}
		b.steps[id] = s
		b.order = append(b.order, s)
	}
	return s
}

// take reads one entry.
func (b *builder) take(e backstay.Entry) error {
	b.busy.entry(e)
	switch e.Kind {
	case backstay.EntryPlanned:
		return read(e, b.planned)
	case backstay.EntryTransition:
		return read(e, b.transition)
	case backstay.EntryIntent:
		return read(e, b.intent)
	case backstay.EntryOutcome:
		return read(e, b.outcome)
	case backstay.EntryObserved:
		return read(e, b.observed)
	case backstay.EntryUndoIntent:
		return read(e, b.undoIntent)
	case backstay.EntryCompensation:
		return read(e, b.compensation)
	case backstay.EntryVerdict:
		return read(e, b.verdict)
	case backstay.EntrySignal:
		return read(e, b.signal)
	case backstay.EntrySettled:
		return read(e, func(e backstay.Entry, body backstay.SettledBody) {
			if body.OK {
				b.event(e, "", "let go of what %s kept for its undo%s", e.Step, because(strings.Join(strings.Split(strings.TrimSpace(body.Output), "\n"), "; ")))
			} else {
				b.event(e, "bad", "could not let go of what %s kept: %s", e.Step, body.Error)
			}
		})
	case backstay.EntryTakeover:
		return read(e, func(e backstay.Entry, body backstay.TakeoverBody) {
			b.report.Takeovers = append(b.report.Takeovers, Takeover{Node: body.Node, Previous: body.Previous, Reason: body.Reason, At: e.At})
			b.event(e, "", "taken over by node %s%s", body.Node, because(body.Reason))
		})
	case backstay.EntryNote, backstay.EntryLockBroken:
		return read(e, func(e backstay.Entry, body backstay.NoteBody) { b.event(e, "", "%s: %s", e.Kind, body.Text) })
	case backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
		return nil // of no deployment
	case backstay.EntryRefused:
		return read(e, func(e backstay.Entry, body backstay.RefusedBody) {
			b.event(e, "bad", "refused: %s%s", body.What, because(body.Error))
		})
	}
	b.event(e, "", "%s (a kind that this version does not know)", e.Kind)
	return nil
}

// read decodes the entry's body for do.
func read[T any](e backstay.Entry, do func(backstay.Entry, T)) error {
	var body T
	if err := e.Decode(&body); err != nil {
		return err
	}
	do(e, body)
	return nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (b *builder) event(e backstay.Entry, weight, format string, args ...any) {
	b.report.Events = append(b.report.Events, Event{
		At: e.At, After: backstay.Duration(max(e.At.Sub(b.report.Started), 0)), Kind: e.Kind, Step: e.Step,
		Text: fmt.Sprintf(format, args...), Weight: weight,
	})
}

func (b *builder) planned(e backstay.Entry, body backstay.PlannedBody) {
	r := b.report
	r.State, r.Started, r.Reason, r.Tool = backstay.Planned, e.At, body.Reason, body.Tool
	r.Phases = []Phase{{backstay.Planned, e.At}}
	b.people.did(r.Author, "started it")
	b.event(e, "", "planned%s", because(body.Reason))
}

func (b *builder) transition(e backstay.Entry, body backstay.TransitionBody) {
	r := b.report
	if n := len(r.Phases); n > 0 && r.Phases[n-1].State == backstay.Holding {
		b.waited += e.At.Sub(r.Phases[n-1].From)
	}
	r.State, r.Phases = body.To, append(r.Phases, Phase{body.To, e.At})
	weight := ""
	switch body.To {
	case backstay.RollingBack:
		weight, b.turned = "bad", e.At
		b.fail(Failure{Step: body.Step, Cause: body.Cause, Reason: body.Reason, At: e.At}, b.began(body.Step))
	case backstay.RolledBack, backstay.Held:
		weight = "undo"
		if body.To == backstay.Held {
			weight = "bad"
			b.fail(Failure{Step: body.Step, Cause: body.Cause, Reason: body.Reason, At: e.At}, b.began(body.Step))
		}
		if !b.turned.IsZero() {
			b.undoing, b.undone, b.turned = b.undoing+e.At.Sub(b.turned), true, time.Time{}
		}
		r.Residue, r.Kept = residues(body.Residue), residues(body.Kept)
	case backstay.Committed:
		weight, b.committed = "good", e.At
	case backstay.Proven:
		weight = "good"
	case backstay.Refused:
		weight = "bad"
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Closed:
	}
	if r.Failure != nil && b.contained.IsZero() && (body.To == backstay.RollingBack || body.To == backstay.Held) {
		b.contained = e.At
	}
	r.Ended = time.Time{}
	if body.To.Settled() {
		r.Ended = e.At
	}
	b.event(e, weight, "%s → %s%s", body.From, body.To, because(body.Reason))
}

// began is when the step's last attempt began; zero where there was none.
func (b *builder) began(step string) time.Time {
	if s, ok := b.steps[step]; ok {
		return s.Began
	}
	return time.Time{}
}

// fail keeps the first failure.
func (b *builder) fail(f Failure, from time.Time) {
	if b.report.Failure != nil {
		return
	}
	f.Word, f.Leads = wordOf(f.Cause, f.Class)
	b.report.Failure, b.failedFrom = &f, from
}

func (b *builder) intent(e backstay.Entry, body backstay.IntentBody) {
	s := b.step(e.Step)
	if !s.touched && body.Before.Digest != "" {
		s.before = &body.Before
	}
	s.touched, s.Result, s.Began, s.Attempts = true, begun, e.At, max(e.Attempt, 1)
	s.Ended, s.Took, s.Error, s.Hint, s.after = time.Time{}, nil, "", "", nil
	if body.Before.Digest == "" || s.hold {
		b.event(e, "", "%s waits for approval", e.Step)
		return
	}
	if b.touched.IsZero() {
		b.touched = e.At
	}
	b.event(e, "", "%s begins", e.Step)
}

func (b *builder) outcome(e backstay.Entry, body backstay.OutcomeBody) {
	s := b.step(e.Step)
	s.Ended, s.Error, s.Hint, s.Output, s.Note, s.after = e.At, body.Error, body.Hint, body.Output, body.Note, body.After
	if took := body.Duration; took > 0 {
		s.Took = &took
	} else if s.touched {
		s.Took = span(s.Began, e.At)
	}
	if body.OK {
		s.Result, b.applied = done, e.At
		b.event(e, "good", "%s done%s", e.Step, because(body.Note))
		return
	}
	s.Result = failed
	b.failedAct(FailedAct{
		Step: e.Step, Act: "do", Attempt: e.Attempt, Tries: body.Tries, Class: body.Class, Cause: body.Cause, Error: body.Error, At: e.At,
	})
	b.event(e, "bad", "%s failed%s", e.Step, because(body.Error))
	b.fail(Failure{
		Step: e.Step, Cause: body.Cause, Class: body.Class, Reason: body.Error, Hint: body.Hint, Output: body.Output, At: e.At,
	}, s.Began)
}

func (b *builder) observed(e backstay.Entry, body backstay.ObservedBody) {
	s := b.step(e.Step)
	s.Finding, s.Ended = body.Finding, e.At
	switch body.Finding {
	case backstay.NotApplied:
		s.Result, s.touched, s.before = notBegun, false, nil
	case backstay.Applied:
		s.Result, s.after = done, body.Now
	case backstay.Partial, backstay.Unknown:
		s.Result, s.Error, s.after = failed, body.Reason, body.Now
		b.failedAct(FailedAct{Step: e.Step, Act: "do", Attempt: e.Attempt, Cause: backstay.CauseCrashed, Error: body.Reason, At: e.At})
		b.fail(Failure{Step: e.Step, Cause: backstay.CauseCrashed, Reason: body.Reason, At: e.At}, s.Began)
	}
	b.event(e, "", "recovery found %s %s%s", e.Step, body.Finding, because(body.Reason))
}

// undoIntent opens the undo of a step, and of those that the same act covers.
func (b *builder) undoIntent(e backstay.Entry, body backstay.UndoIntentBody) {
	for _, id := range append([]string{e.Step}, body.Covers...) {
		b.step(id).Undo = &Undo{Result: begun, Began: e.At}
	}
	also := ""
	if len(body.Covers) > 0 {
		also = " (one move, also of " + strings.Join(body.Covers, ", ") + ")"
	}
	b.event(e, "undo", "undo of %s begins%s", e.Step, also)
}

func (b *builder) compensation(e backstay.Entry, body backstay.CompensationBody) {
	s := b.step(e.Step)
	if s.Undo == nil || s.Undo.Result != begun {
		s.Undo = &Undo{}
	}
	u := s.Undo
	u.Result, u.Ended, u.Cause, u.Error, u.Output, u.Note, u.With = body.Result, e.At, body.Cause, body.Error, body.Output, body.Note, body.With
	if took := body.Duration; took > 0 {
		u.Took = &took
	}
	weight := "undo"
	if body.Result == failed {
		weight = "bad"
		b.failedAct(FailedAct{Step: e.Step, Act: "undo", Class: body.Class, Cause: body.Cause, Error: body.Error, At: e.At})
	}
	with := ""
	if body.With != "" {
		with = " with " + body.With
	}
	b.event(e, weight, "undo of %s: %s%s%s", e.Step, body.Result, with, because(body.Error))
	if s.dial && body.Result != failed {
		b.contained = e.At // users are back where they were
		moved, err := time.Parse(time.RFC3339Nano, body.Slots["moved"])
		if err == nil && !moved.After(e.At) && !moved.Before(u.Began) {
			b.contained = moved // and the act went on to wait for what was still answered
		}
	}
}

func (b *builder) signal(e backstay.Entry, body backstay.SignalBody) {
	s := Signal{Signal: body.Signal, Step: body.Step, Reason: body.Reason, Accepted: body.Accepted, Why: body.Why, Alarm: body.Alarm, At: e.At}
	if e.Actor != nil {
		s.Actor = *e.Actor
	}
	b.people.did(s.Actor, s.what())
	if body.Signal == "approve" {
		b.report.Approvals = append(b.report.Approvals, s)
	} else {
		b.report.Signals = append(b.report.Signals, s)
	}
	if !body.Accepted {
		b.event(e, "bad", "%s by %s refused%s", body.Signal, s.Actor, because(body.Why))
		return
	}
	b.event(e, "", "%s by %s%s", body.Signal, s.Actor, because(body.Reason))
	if cause := body.Turns(); cause != "" {
		b.fail(Failure{Cause: cause, Reason: body.Reason, At: e.At}, time.Time{})
	}
}

// finish computes what follows from all entries.
func (b *builder) finish() error {
	r := b.report
	for _, s := range b.order {
		if err := b.changes(s); err != nil {
			return err
		}
		r.Steps, r.Flags = append(r.Steps, s.Step), append(r.Flags, flagMoves(s.Step)...)
	}
	b.times()
	r.Magnitude.Residue, r.Magnitude.Kept = sizeOf(r.Residue), sizeOf(r.Kept)
	r.People = b.people.all
	return nil
}

// wordOf is the user's word for why a deployment turned around, and what it leads to;
// "" where somebody asked for it, or nothing tells.
func wordOf(cause backstay.Cause, class backstay.ErrorClass) (string, []backstay.Lead) {
	word, leads := backstay.Told(class, cause)
	if word == backstay.NotTold {
		return "", nil
	}
	return string(word), leads
}

// failedAct keeps an act that failed, with the user's word for its class.
func (b *builder) failedAct(f FailedAct) {
	word, _ := backstay.Told(f.Class, f.Cause)
	f.Word = string(word)
	r := b.report
	r.Failed = append(r.Failed, f)
	if r.Words == nil {
		r.Words = map[string]int{}
	}
	r.Words[f.Word]++
}

// times computes the figures of Times.
func (b *builder) times() {
	r := b.report
	if !r.Ended.IsZero() { // under way, a total would be out of date when it is read
		r.Times.Total = span(r.Started, r.Ended)
	}
	if r.Failure != nil {
		if !b.failedFrom.IsZero() {
			r.Times.Detect = span(b.failedFrom, r.Failure.At)
		}
		if !b.exposed() {
			r.Times.Contain = span(r.Failure.At, b.contained)
		}
	}
	if b.undone && b.turned.IsZero() && b.undoing >= 0 {
		undo := backstay.Duration(b.undoing)
		r.Times.Undo = &undo
	}
	if r.State == backstay.RolledBack {
		r.Times.Exposed = span(b.touched, r.Ended)
	}
	if b.waited > 0 {
		waited := backstay.Duration(b.waited)
		r.Times.Waited = &waited
	}
	if r.Gaps = b.busy.gaps(r.Started, r.Ended); len(r.Gaps) > 0 {
		var sum backstay.Duration
		for _, g := range r.Gaps {
			sum += g.Took
		}
		r.Times.Unaccounted = &sum
	}
}

// exposed reports whether a dial that was moved was not moved back: then users
// are where the deployment had sent them.
func (b *builder) exposed() bool {
	return slices.ContainsFunc(b.order, func(s *stepBuilder) bool {
		return s.dial && s.touched && (s.Undo == nil || s.Undo.Result == begun || s.Undo.Result == failed)
	})
}

// span is the time between two entries; nil where it cannot be told.
func span(from, to time.Time) *backstay.Duration {
	if from.IsZero() || to.IsZero() || to.Before(from) {
		return nil
	}
	d := backstay.Duration(to.Sub(from))
	return &d
}

// changes compares a step's images.
func (b *builder) changes(s *stepBuilder) error {
	if s.before == nil || s.after == nil {
		return nil
	}
	before, err := b.image(s.before)
	if err != nil {
		return err
	}
	after, err := b.image(s.after)
	if err != nil {
		return err
	}
	var size Magnitude
	s.Changes, s.More, size = compare(before, after)
	b.report.Magnitude.Changed.add(size)
	return nil
}

// maxImage bounds a stored image that is read for a report.
const maxImage = 256 << 20

func (b *builder) image(ref *backstay.ImageRef) (backstay.Image, error) {
	if !ref.Stored {
		return ref.Inline, nil
	}
	rd, err := b.blobs.Get(ref.Digest)
	if err != nil {
		return nil, fmt.Errorf("read image %.12s: %w", ref.Digest, err)
	}
	data, err := io.ReadAll(io.LimitReader(rd, maxImage))
	if err = errors.Join(err, rd.Close()); err != nil {
		return nil, fmt.Errorf("read image %.12s: %w", ref.Digest, err)
	}
	var im backstay.Image
	if err := json.Unmarshal(data, &im); err != nil {
		return nil, fmt.Errorf("read image %.12s: %w", ref.Digest, err)
	}
	return im, nil
}

func residues(list []backstay.Residue) []Residue {
	out := make([]Residue, 0, len(list))
	for _, r := range list {
		out = append(out, readable(r))
	}
	return slices.Clip(out)
}

// readable gives a residue's values as people read them.
func readable(r backstay.Residue) Residue {
	out := Residue{Residue: r}
	out.Was, out.Reads = Difference(r.Before, r.Current)
	if r.Unknown != "" {
		out.Reads = "unknown: " + r.Unknown
		out.Was = "unknown"
		if r.Before != nil {
			out.Was = Value(r.Before)
		}
	}
	if r.Wanted != nil {
		out.Want = Value(r.Wanted)
	}
	return out
}
