package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Row is one line of the audit log.
type Row struct {
	Leaf       int64              `json:"leaf"`
	At         time.Time          `json:"at"`
	Deployment string             `json:"deployment,omitempty"`
	Name       string             `json:"name,omitempty"` // release#number
	Entry      int64              `json:"entry,omitempty"`
	Kind       backstay.EntryKind `json:"kind"`
	Step       string             `json:"step,omitempty"`
	Actor      *backstay.Actor    `json:"actor,omitempty"`
	// Text is one line: it holds no control characters whatever the entry says.
	Text string `json:"text"`
}

// String is the row as one line of text: when, where, who, what.
func (r Row) String() string {
	where := r.Name
	if where == "" {
		where = r.Deployment
	}
	if where == "" {
		where = "-"
	}
	who := "-"
	if r.Actor != nil {
		who = r.Actor.String()
		if r.Actor.Host != "" {
			who += " on " + r.Actor.Host
		}
	}
	return fmt.Sprintf("%d  %s  %s  %s  %s", r.Leaf, r.At.UTC().Format("2006-01-02T15:04:05.000Z"), line(where), line(who), r.Text)
}

// LogSource is what the log needs of the ledger.
type LogSource interface {
	Leaves
	Deployment(ctx context.Context, id string) (ledger.Deployment, error)
}

// Log calls visit with a row per entry that the query selects, in leaf order.
// It ends early with the error that visit returns.
func Log(ctx context.Context, src LogSource, q ledger.Query, visit func(Row) error) error {
	const room = 1024
	names := map[string]string{}
	return pages(ctx, src, q, func(leaves []ledger.Leaf) error {
		if len(names) > room {
			clear(names)
		}
		for _, l := range leaves {
			id := l.Entry.Deployment
			if _, known := names[id]; !known && id != "" {
				d, err := src.Deployment(ctx, id)
				if err != nil && !errors.Is(err, ledger.ErrNotFound) {
					return fmt.Errorf("read deployment %s: %w", id, err)
				}
				names[id] = d.Name
			}
			if err := visit(rowOf(l, names[id])); err != nil {
				return err
			}
		}
		return nil
	})
}

func rowOf(l ledger.Leaf, name string) Row {
	e := l.Entry
	return Row{
		Leaf: l.Index, At: e.At, Deployment: e.Deployment, Name: name, Entry: e.N, Kind: e.Kind, Step: e.Step, Actor: e.Actor,
		Text: line(Describe(e)),
	}
}

// Describe says in one sentence what an entry records. The text is as the
// entry has it: whoever shows it must clean it.
func Describe(e backstay.Entry) string {
	text, err := describe(e)
	if err != nil {
		return fmt.Sprintf("%s (its body cannot be read: %v)", e.Kind, err)
	}
	return text
}

// textLimit bounds what is quoted of an error or reason.
const textLimit = 300

func describe(e backstay.Entry) (string, error) {
	switch e.Kind {
	case backstay.EntryPlanned:
		return decoded(e, func(b backstay.PlannedBody) string {
			return join("planned "+b.Release+" "+b.Version, "plan "+short(b.PlanDigest), labelled("reverts", b.Reverts), labelled("reason", b.Reason))
		})
	case backstay.EntryTransition:
		return decoded(e, func(b backstay.TransitionBody) string {
			return join(fmt.Sprintf("%s → %s", b.From, b.To), labelled("cause", string(b.Cause)), labelled("step", b.Step), labelled("reason", b.Reason),
				counted(len(b.Residue), "part not restored", "parts not restored"), counted(len(b.Kept), "outsider's value kept", "outsiders' values kept"))
		})
	case backstay.EntryIntent:
		return decoded(e, func(b backstay.IntentBody) string {
			if b.Before.Digest == "" {
				return "step " + e.Step + " waits for people"
			}
			return fmt.Sprintf("step %s begins (attempt %d), before-image %s", e.Step, e.Attempt, short(b.Before.Digest))
		})
	case backstay.EntryOutcome:
		return decoded(e, func(b backstay.OutcomeBody) string {
			if b.OK {
				return join(fmt.Sprintf("step %s done in %s", e.Step, b.Duration), b.Note)
			}
			return join(fmt.Sprintf("step %s failed after %s", e.Step, b.Duration), labelled("cause", string(b.Cause)), b.Error)
		})
	case backstay.EntryObserved:
		return decoded(e, func(b backstay.ObservedBody) string {
			return join(fmt.Sprintf("recovery finds step %s %s", e.Step, b.Finding), b.Reason)
		})
	case backstay.EntryUndoIntent:
		return "undo of step " + e.Step + " begins", nil
	case backstay.EntryCompensation:
		return decoded(e, func(b backstay.CompensationBody) string {
			return join(fmt.Sprintf("undo of step %s: %s in %s", e.Step, b.Result, b.Duration), labelled("cause", string(b.Cause)), labelled("with", b.With), b.Error,
				counted(len(b.Residue), "part not restored", "parts not restored"), counted(len(b.Kept), "outsider's value kept", "outsiders' values kept"))
		})
	case backstay.EntryVerdict, backstay.EntrySignal, backstay.EntrySettled, backstay.EntryTakeover,
		backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
	}
	return describeAside(e)
}

// describeAside describes the kinds that are about no single act.
func describeAside(e backstay.Entry) (string, error) {
	switch e.Kind {
	case backstay.EntryVerdict:
		return decoded(e, func(b backstay.VerdictBody) string {
			what := fmt.Sprintf("%s %s: %s", b.Phase, b.Check, b.Verdict)
			if b.Check == b.Phase {
				what = fmt.Sprintf("%s: %s", b.Phase, b.Verdict)
			}
			return join(what, b.Reason, counted(b.Samples, "sample", "samples"))
		})
	case backstay.EntrySignal:
		return decoded(e, func(b backstay.SignalBody) string {
			what, from := b.Signal+" accepted", ""
			if !b.Accepted {
				what = b.Signal + " refused: " + b.Why
			}
			if b.Alarm != nil {
				from = b.Alarm.Source
			}
			return join(what, labelled("step", b.Step), labelled("reason", b.Reason), labelled("from", from))
		})
	case backstay.EntrySettled:
		return decoded(e, func(b backstay.SettledBody) string {
			if b.OK {
				return join("let go of what step "+e.Step+" kept for its undo", strings.ReplaceAll(strings.TrimSpace(b.Output), "\n", "; "))
			}
			return join("could not let go of what step "+e.Step+" kept", b.Error)
		})
	case backstay.EntryTakeover:
		return decoded(e, func(b backstay.TakeoverBody) string {
			return join(fmt.Sprintf("taken over by node %s (pid %d)", b.Node, b.PID), labelled("from", b.Previous), labelled("reason", b.Reason))
		})
	case backstay.EntryNote:
		return decoded(e, func(b backstay.NoteBody) string { return join("note", string(b.Key), b.Text) })
	case backstay.EntryLockBroken:
		return decoded(e, func(b backstay.NoteBody) string { return join("lock broken", string(b.Key), b.Text) })
	case backstay.EntryDrill:
		return decoded(e, func(b backstay.DrillBody) string {
			parts := []string{fmt.Sprintf("drill of %s, plan %.12s, depth %d", b.Release, b.Plan, b.Depth)}
			for _, t := range b.Tallies {
				parts = append(parts, fmt.Sprintf("%s: %d cells, %d failed, %d hung, %d not run", t.Level, t.Cells, t.Failed, t.Hung, t.NotRun))
			}
			return join(append(parts, counted(b.Blind, "blind spot", "blind spots"))...)
		})
	case backstay.EntryFlag:
		return decoded(e, func(b backstay.FlagBody) string {
			by := ""
			if b.By != nil {
				by = "step " + b.By.Step + " of deployment " + b.By.Deployment
			}
			second := ""
			if b.Second != nil {
				second = b.Second.Name
			}
			return join(fmt.Sprintf("flag %s, version %d: %s", b.Key, b.Version, b.Act), by, labelled("asked by", second), labelled("reason", b.Reason))
		})
	case backstay.EntryMitigation:
		return decoded(e, describeMitigation)
	case backstay.EntryRefused:
		return decoded(e, func(b backstay.RefusedBody) string {
			first := b.Error
			if len(b.Problems) > 0 {
				first = b.Problems[0].String()
			}
			more := ""
			if len(b.Problems) > 1 {
				more = counted(len(b.Problems)-1, "more problem", "more problems")
			}
			return join("refused: "+b.What, labelled("release", b.Release), labelled("plan", short(b.Plan)), first, more)
		})
	case backstay.EntryPlanned, backstay.EntryTransition, backstay.EntryIntent, backstay.EntryOutcome,
		backstay.EntryObserved, backstay.EntryUndoIntent, backstay.EntryCompensation:
	}
	return fmt.Sprintf("%s (a kind that this version does not know)", e.Kind), nil
}

func decoded[T any](e backstay.Entry, say func(T) string) (string, error) {
	var body T
	if err := e.Decode(&body); err != nil {
		return "", err
	}
	return say(body), nil
}

// join puts what is not empty behind one another.
func join(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p = line(p); p != "" {
			out = append(out, cut(p, textLimit))
		}
	}
	return strings.Join(out, "; ")
}

func labelled(label, text string) string {
	if text == "" {
		return ""
	}
	return label + " " + text
}

func counted(n int, one, many string) string {
	if n == 0 {
		return ""
	}
	return count(int64(n), one, many)
}

// short is the beginning of a digest, enough to find it by.
func short(digest string) string {
	const enough = 12
	return digest[:min(len(digest), enough)]
}

// describeMitigation shouts where glass was broken.
func describeMitigation(b backstay.MitigationBody) string {
	what := fmt.Sprintf("mitigation %s of %s", b.Name, b.Release)
	if b.Act == backstay.GlassBroken {
		return join("BROKEN GLASS: "+what+" ran at once, past its cell and its approvals", labelled("reason", b.Reason), labelled("deployment", b.Deployment), "until "+b.Until.UTC().Format(time.RFC3339))
	}
	return join(what+" approved ahead", labelled("definition", b.Definition), labelled("reason", b.Reason))
}
