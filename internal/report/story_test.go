package report_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/report"
)

// story is one deployment in memory, written entry by entry.
type story struct {
	dep     ledger.Deployment
	entries []backstay.Entry
	plan    *plan.Plan
	blobs   map[string][]byte
	at      time.Time
	signed  int64
	others  []*story      // of the same ledger
	drills  []ledger.Leaf // drills, in their order
}

var _ report.Source = (*story)(nil)

func (s *story) Deployment(_ context.Context, id string) (ledger.Deployment, error) {
	if id != s.dep.ID {
		return ledger.Deployment{}, ledger.ErrNotFound
	}
	return s.dep, nil
}

func (s *story) Entries(_ context.Context, id string, _ int64) ([]backstay.Entry, error) {
	for _, o := range append(s.others, s) {
		if o.dep.ID == id {
			return o.entries, nil
		}
	}
	return nil, ledger.ErrNotFound
}

func (s *story) List(_ context.Context, f ledger.Filter) ([]ledger.Deployment, error) {
	var all []ledger.Deployment
	for _, o := range append([]*story{s}, s.others...) {
		if o.dep.Release == f.Release && (len(f.States) == 0 || slices.Contains(f.States, o.dep.State)) {
			all = append(all, o.dep)
		}
	}
	slices.SortFunc(all, func(a, b ledger.Deployment) int { return int(b.Number - a.Number) })
	return all, nil
}

func (s *story) Walk(_ context.Context, q ledger.Query, f func(ledger.Leaf) error) error {
	for _, l := range s.drills {
		if q.Kind == "" || q.Kind == l.Entry.Kind {
			if err := f(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// drilled records a drill of a plan so long before the story begins.
func (s *story) drilled(plan string, before, good time.Duration) {
	began := s.entries[0].At
	s.drills = append(s.drills, ledger.Leaf{Entry: backstay.Entry{V: 1, Kind: backstay.EntryDrill, At: began.Add(-before), Body: backstay.Canonical(backstay.DrillBody{
		ID: "d-7", Release: "shop", Plan: plan, Depth: 1, Blind: 2, Expires: began.Add(-before + good), Report: oldSum,
		Undo:    map[string]backstay.Duration{"conf": backstay.Duration(40 * time.Millisecond)},
		Tallies: []backstay.DrillTally{{Level: "D1", Cells: 120, Restored: 118, HeldExact: 2}, {Level: "D2", Cells: 40, Restored: 30, RestoredModulo: 4, NotRun: 6}},
	})}})
}

func (s *story) Plan(context.Context, string) ([]byte, error) { return s.plan.Encode(), nil }

func (s *story) Head(context.Context) (ledger.Head, error) {
	return ledger.Head{Size: 120, Root: sha256.Sum256([]byte("root"))}, nil
}

func (s *story) ReadCheckpoints(context.Context) ([]ledger.Checkpoint, error) {
	if s.signed == 0 {
		return nil, nil
	}
	return []ledger.Checkpoint{{Size: 7, At: s.at}, {Size: s.signed, At: s.at}}, nil
}

func (s *story) Blobs(context.Context) backstay.Blobs { return blobs(s.blobs) }

type blobs map[string][]byte

func (b blobs) Put(r io.Reader) (string, int64, error) {
	data, err := io.ReadAll(r)
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	b[digest] = data
	return digest, int64(len(data)), err
}

func (b blobs) Has(digest string) (bool, error) {
	_, ok := b[digest]
	return ok, nil
}

func (b blobs) Get(digest string) (io.ReadCloser, error) {
	data, ok := b[digest]
	if !ok {
		return nil, ledger.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func ann() backstay.Actor { return backstay.Actor{UID: 1000, Name: "ann", Host: "web1", Via: "deploy"} }

const conf = backstay.Key("file:/etc/shop/shop.conf")

func step(id, kind, summary string, keys ...backstay.Key) backstay.Step {
	return backstay.Step{ID: id, Prepared: backstay.Prepared{Kind: kind, Summary: summary, Keys: keys, Class: backstay.Exact}}
}

func newStory(steps ...backstay.Step) *story {
	p := &plan.Plan{Format: plan.Format, Release: "shop", Version: "2.4.0"}
	for i, s := range steps {
		s.Seq = i + 1
		p.Steps = append(p.Steps, s)
	}
	s := &story{
		plan: p, blobs: map[string][]byte{}, at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		dep: ledger.Deployment{
			ID: "0198c0de-2222-7000-8000-000000000002", Name: "shop#12", Number: 12, Release: "shop", Version: "2.4.0", Environment: "production",
			PlanDigest: p.Digest(), Author: ann(),
		},
	}
	s.add(0, backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: p.Digest(), Release: "shop", Version: "2.4.0", Reason: "spring sale", Tool: "v1.0.0"})
	s.move(0, "approve", backstay.Planned, backstay.Approved)
	s.move(10*time.Millisecond, "start", backstay.Approved, backstay.Running)
	return s
}

// add writes an entry so long after the one before.
func (s *story) add(after time.Duration, kind backstay.EntryKind, step string, body any) {
	s.at = s.at.Add(after)
	actor := ann()
	s.entries = append(s.entries, backstay.Entry{
		V: 1, Deployment: s.dep.ID, N: int64(len(s.entries) + 1), Kind: kind, Step: step, Attempt: 1, At: s.at, Actor: &actor, Body: backstay.Canonical(body),
	})
}

func (s *story) move(after time.Duration, event string, from, to backstay.State) {
	s.add(after, backstay.EntryTransition, "", backstay.TransitionBody{From: from, Event: event, To: to})
}

func (s *story) ref(im backstay.Image) backstay.ImageRef {
	return backstay.ImageRef{Digest: im.Digest(), Inline: im}
}

// stored puts the image into a blob, as the engine does with large ones.
func (s *story) stored(im backstay.Image) backstay.ImageRef {
	digest, _, err := blobs(s.blobs).Put(bytes.NewReader(backstay.Canonical(im)))
	if err != nil {
		panic(err)
	}
	return backstay.ImageRef{Digest: digest, Stored: true}
}

// acts writes intent and good outcome of a step.
func (s *story) acts(step string, took time.Duration, before, after backstay.ImageRef) {
	s.add(20*time.Millisecond, backstay.EntryIntent, step, backstay.IntentBody{Before: before})
	s.add(took, backstay.EntryOutcome, step, backstay.OutcomeBody{OK: true, After: &after, Duration: backstay.Duration(took)})
}

func file(mode string, size int64, sum string) json.RawMessage {
	return backstay.Canonical(map[string]any{"type": "file", "mode": mode, "uid": 0, "gid": 0, "mtime": "2026-02-01T00:00:00Z", "size": size, "sha256": sum})
}

func parts(kv ...any) backstay.ResourceState {
	st := backstay.ResourceState{Parts: map[string]json.RawMessage{}}
	for i := 0; i < len(kv); i += 2 {
		name, _ := kv[i].(string)
		st.Parts[name], _ = kv[i+1].(json.RawMessage)
	}
	return st
}

const (
	oldSum = "9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0"
	newSum = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"
)

// rolledBack: a file and a tree are written, a service does not come up.
func rolledBack() *story {
	tree := backstay.Key("file:/srv/shop")
	web := backstay.Key("service:web")
	s := newStory(
		step("conf", "file", "write /etc/shop/shop.conf", conf),
		step("assets", "file", "copy dist to /srv/shop", tree),
		step("web", "service", "start 2 instances of web", web),
		step("cache", "run", "warm the cache", "run:cache"),
	)
	before := backstay.Image{conf: parts("", file("0644", 1234, oldSum))}
	after := backstay.Image{conf: parts("", file("0640", 1300, newSum))}
	s.acts("conf", 30*time.Millisecond, s.ref(before), s.ref(after))
	trees := func(parts_ ...any) backstay.Image { return backstay.Image{tree: parts(parts_...)} }
	dir := backstay.Canonical(map[string]any{"type": "dir", "mode": "0755", "uid": 33, "gid": 33})
	link := backstay.Canonical(map[string]any{"type": "symlink", "uid": 0, "gid": 0, "target": "v2.4"})
	s.acts("assets", 400*time.Millisecond,
		s.stored(trees("", dir, "old.css", file("0644", 20_480, oldSum), "app.js", file("0644", 3_400_000, oldSum))),
		s.stored(trees("", dir, "current", link, "app.js", file("0644", 3_400_000, newSum))))
	s.add(15*time.Millisecond, backstay.EntryIntent, "web", backstay.IntentBody{Before: s.ref(backstay.Image{web: backstay.PartValue(map[string]any{"running": true, "release": "2.3.9"})})})
	s.add(2500*time.Millisecond, backstay.EntryOutcome, "web", backstay.OutcomeBody{
		Class: backstay.Permanent, Cause: backstay.CauseStepFailed, Error: "instance 1 exited with status 1 before it was ready", Tries: 1,
		Hint: "look at its log", Output: "starting on 127.0.0.1:8081\npanic: no database\n\ngoroutine 1 [running]:\n\tmain.main()\n", Duration: backstay.Duration(2480 * time.Millisecond),
		After: ptr(s.ref(backstay.Image{web: backstay.PartValue(map[string]any{"running": true, "release": "2.3.9"})})),
	})
	s.add(5*time.Millisecond, backstay.EntryTransition, "", backstay.TransitionBody{
		From: backstay.Running, Event: "fail", To: backstay.RollingBack, Cause: backstay.CauseStepFailed, Step: "web", Reason: "instance 1 exited with status 1 before it was ready",
	})
	s.add(10*time.Millisecond, backstay.EntryCompensation, "web", backstay.CompensationBody{Result: "untouched"})
	for _, id := range []string{"assets", "conf"} {
		s.add(10*time.Millisecond, backstay.EntryUndoIntent, id, backstay.UndoIntentBody{})
		s.add(200*time.Millisecond, backstay.EntryCompensation, id, backstay.CompensationBody{Result: "restored", Duration: backstay.Duration(200 * time.Millisecond)})
	}
	s.move(20*time.Millisecond, "undone", backstay.RollingBack, backstay.RolledBack)
	s.dep.State, s.signed = backstay.RolledBack, 100
	return s
}

// held: the bake fails after an approval, one file cannot be put back, another
// was changed by somebody else.
func held() *story {
	s := newStory(step("conf", "file", "write /etc/shop/shop.conf", conf), backstay.Step{ID: "ask", Prepared: backstay.Prepared{Kind: "approve", Summary: "approval of sre", Hold: &backstay.Hold{Count: 1}}})
	before, after := s.ref(backstay.Image{conf: parts("", file("0644", 1234, oldSum))}), s.ref(backstay.Image{conf: parts("", file("0644", 1300, newSum))})
	s.acts("conf", 30*time.Millisecond, before, after)
	s.add(time.Millisecond, backstay.EntryIntent, "ask", backstay.IntentBody{})
	s.move(0, "hold", backstay.Running, backstay.Holding)
	approve := func(after time.Duration, who backstay.Actor, why string) {
		s.add(after, backstay.EntrySignal, "ask", backstay.SignalBody{ID: who.Name, Signal: "approve", Step: "ask", Plan: s.dep.PlanDigest, Accepted: why == "", Why: why})
		s.entries[len(s.entries)-1].Actor = &who
	}
	approve(time.Minute, ann(), "who started the deployment may not approve it")
	approve(time.Minute, backstay.Actor{UID: 1001, Name: "bob", Host: "web2"}, "")
	s.add(0, backstay.EntryOutcome, "ask", backstay.OutcomeBody{OK: true, Note: "approved"})
	s.move(0, "resume", backstay.Holding, backstay.Running)
	verdict := func(after time.Duration, phase, check string, v backstay.Verdict, reason string, samples int) {
		s.add(after, backstay.EntryVerdict, "", backstay.VerdictBody{Check: check, Phase: phase, CheckResult: backstay.CheckResult{Verdict: v, Reason: reason, Samples: samples, Duration: 12 * time.Millisecond}})
	}
	verdict(time.Second, "verify", "healthz", backstay.Pass, "HTTP 200", 3)
	verdict(0, "verify", "verify", backstay.Pass, "", 1)
	s.move(0, "commit", backstay.Running, backstay.Committed)
	s.add(5*time.Minute, backstay.EntryTakeover, "", backstay.TakeoverBody{Node: "n2", PID: 77, Previous: "n1", Reason: "its lease ran out"})
	verdict(5*time.Minute, "bake", "bake", backstay.Fail, "3 rounds in a row: healthz: HTTP 500 (fail)", 40)
	s.add(0, backstay.EntryTransition, "", backstay.TransitionBody{From: backstay.Committed, Event: "fail", To: backstay.RollingBack, Cause: backstay.CauseBakeFailed, Reason: "3 rounds in a row: healthz: HTTP 500 (fail)"})
	s.add(time.Millisecond, backstay.EntryUndoIntent, "conf", backstay.UndoIntentBody{})
	s.add(time.Second, backstay.EntryCompensation, "conf", backstay.CompensationBody{Result: "failed", Cause: backstay.CauseUndoFailed, Error: "read-only file system", Duration: backstay.Duration(time.Second)})
	next := "repair it by hand, then `backstay rollback shop#12 --retry`"
	s.add(time.Millisecond, backstay.EntryTransition, "", backstay.TransitionBody{
		From: backstay.RollingBack, Event: "stick", To: backstay.Held, Cause: backstay.CauseUndoFailed, Residue: []backstay.Residue{
			{Key: conf, Step: "conf", Before: file("0644", 1234, oldSum), Wanted: file("0644", 1300, newSum), Current: file("0644", 1300, newSum), Cause: backstay.CauseUndoFailed, Detail: "read-only file system", Next: next},
			{Key: "service:web", Step: "web", Unknown: "nothing can read it", Cause: backstay.CauseAmbiguous, Next: next},
			{Key: "file:/srv", Part: "new.txt", Step: "conf", Current: backstay.Canonical("text"), Cause: backstay.CauseUndoFailed, Next: "rm /srv/new.txt"},
		},
		Kept: []backstay.Residue{{Key: "file:/srv", Part: "theirs", Before: file("0644", 5, oldSum), Current: file("0600", 5, oldSum), Cause: backstay.CauseDrift, Detail: "changed by somebody else; kept"}},
	})
	s.dep.State = backstay.Held
	return s
}

// proven: approved, verified, baked; drilled before, and with an earlier
// deployment that is replaced.
func proven() *story {
	ask := backstay.Step{ID: "ask", Prepared: backstay.Prepared{Kind: "approve", Summary: "approval of sre", Hold: &backstay.Hold{Count: 1}}}
	s := newStory(step("conf", "file", "write /etc/shop/shop.conf", conf), step("web", "service", "start 2 instances of web", "service:web"), ask, step("mail", "run", "tell customers", "run:mail"))
	s.plan.Owner, s.plan.Verify, s.plan.Within = "team-shop", []plan.Check{{ID: "healthz"}}, backstay.Duration(time.Minute)
	s.plan.Bake = plan.Bake{For: backstay.Duration(30 * time.Minute), Every: backstay.Duration(5 * time.Second)}
	s.dep.PlanDigest = s.plan.Digest()
	s.drilled(s.dep.PlanDigest, 48*time.Hour, 14*24*time.Hour)
	s.others = []*story{earlier(11, "2.3.9", backstay.Proven)}
	state := func(v string) backstay.ImageRef { return s.ref(backstay.Image{"service:web": backstay.PartValue(v)}) }
	s.acts("conf", 30*time.Millisecond, s.ref(backstay.Image{conf: parts("", file("0644", 1234, oldSum))}), s.ref(backstay.Image{conf: parts("", file("0644", 1300, newSum))}))
	s.acts("web", 4*time.Second, state("old"), state("new"))
	s.add(time.Millisecond, backstay.EntryIntent, "ask", backstay.IntentBody{})
	s.move(0, "hold", backstay.Running, backstay.Holding)
	s.add(7*time.Minute, backstay.EntrySignal, "ask", backstay.SignalBody{ID: "1", Signal: "approve", Step: "ask", Accepted: true, Reason: "looks good"})
	s.entries[len(s.entries)-1].Actor = &backstay.Actor{UID: 1001, Name: "bob", Host: "web2"}
	s.add(0, backstay.EntryOutcome, "ask", backstay.OutcomeBody{OK: true, Note: "approved", Duration: backstay.Duration(7 * time.Minute)})
	s.move(0, "resume", backstay.Holding, backstay.Running)
	s.acts("mail", 800*time.Millisecond, backstay.ImageRef{Digest: "x"}, backstay.ImageRef{Digest: "y"})
	s.add(120*time.Millisecond, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "healthz", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Pass, Reason: "HTTP 200", Samples: 2, Duration: 9 * time.Millisecond}})
	s.add(0, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "verify", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Pass, Reason: "every key reads as its step left it", Samples: 1}})
	s.move(0, "commit", backstay.Running, backstay.Committed)
	s.add(30*time.Minute, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "bake", Phase: "bake", CheckResult: backstay.CheckResult{Verdict: backstay.Pass, Reason: "360 rounds over 30m0s", Samples: 360}})
	s.move(time.Millisecond, "prove", backstay.Committed, backstay.Proven)
	s.dep.State, s.signed = backstay.Proven, 120
	return s
}

// earlier is a deployment of the same release that ended so.
func earlier(number int64, version string, end backstay.State) *story {
	o := newStory(step("web", "service", "start 2 instances of web", "service:web"))
	o.dep.ID, o.dep.Name, o.dep.Number, o.dep.Version, o.dep.State = fmt.Sprintf("earlier-%d", number), fmt.Sprintf("shop#%d", number), number, version, end
	if end == backstay.RolledBack {
		o.add(time.Second, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "verify", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Fail, Reason: "healthz: HTTP 503 (fail)"}})
		o.add(0, backstay.EntryTransition, "", backstay.TransitionBody{From: backstay.Running, Event: "fail", To: backstay.RollingBack, Cause: backstay.CauseVerifyFailed})
		o.move(time.Second, "undone", backstay.RollingBack, backstay.RolledBack)
		return o
	}
	o.acts("web", time.Second, o.ref(backstay.Image{}), o.ref(backstay.Image{}))
	o.move(time.Second, "commit", backstay.Running, backstay.Committed)
	o.move(time.Second, "prove", backstay.Committed, backstay.Proven)
	return o
}

// failed: the checks do not pass, not for the first time; a node died on the
// way, an abort came too late, an undo cannot be read back.
func failed() *story {
	cache := backstay.Key("run:shop/cache")
	warm := step("cache", "run", "warm the cache", cache)
	warm.Class, warm.Effect, warm.HasUndo = backstay.Compensated, backstay.AtMostOnce, true
	s := newStory(step("conf", "file", "write /etc/shop/shop.conf", conf), warm)
	s.plan.Owner, s.plan.Verify, s.plan.Within = "team-shop", []plan.Check{{ID: "healthz"}}, backstay.Duration(time.Second)
	s.dep.PlanDigest = s.plan.Digest()
	s.drilled(s.dep.PlanDigest, 20*24*time.Hour, 14*24*time.Hour)
	s.others = []*story{earlier(11, "2.3.9", backstay.Proven), earlier(10, "2.3.8", backstay.RolledBack)}
	opaque := s.ref(backstay.Image{cache: {Opaque: true}})
	s.acts("conf", 30*time.Millisecond, s.ref(backstay.Image{conf: parts("", file("0644", 1234, oldSum))}), s.ref(backstay.Image{conf: parts("", file("0644", 1300, newSum))}))
	s.add(40*time.Second, backstay.EntryTakeover, "", backstay.TakeoverBody{Node: "n2", PID: 9, Previous: "n1", Reason: "its lease ran out"})
	s.acts("cache", 900*time.Millisecond, opaque, opaque)
	s.add(30*time.Second, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "healthz", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Fail, Reason: "HTTP 503", Samples: 31}})
	s.add(0, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "verify", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Fail, Reason: "healthz: HTTP 503 (fail)", Samples: 1}})
	s.add(time.Millisecond, backstay.EntryTransition, "", backstay.TransitionBody{From: backstay.Running, Event: "fail", To: backstay.RollingBack, Cause: backstay.CauseVerifyFailed, Reason: "healthz: HTTP 503 (fail)"})
	s.add(time.Second, backstay.EntrySignal, "", backstay.SignalBody{ID: "2", Signal: "abort", Why: "the deployment is rolling_back; there is nothing to abort"})
	s.add(time.Millisecond, backstay.EntryUndoIntent, "cache", backstay.UndoIntentBody{})
	s.add(2*time.Second, backstay.EntryCompensation, "cache", backstay.CompensationBody{Result: "compensated", Note: "2 keys that others wrote since stay", Duration: backstay.Duration(2 * time.Second)})
	s.add(time.Millisecond, backstay.EntryUndoIntent, "conf", backstay.UndoIntentBody{})
	s.add(50*time.Millisecond, backstay.EntryCompensation, "conf", backstay.CompensationBody{Result: "restored", Duration: backstay.Duration(48 * time.Millisecond)})
	s.move(10*time.Millisecond, "undone", backstay.RollingBack, backstay.RolledBack)
	s.dep.State = backstay.RolledBack
	return s
}

func ptr[T any](v T) *T { return &v }

func timeline(tb testing.TB, s *story) *report.Report {
	tb.Helper()
	r, err := report.Timeline(tb.Context(), s, s.dep.ID)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}
