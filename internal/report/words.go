package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// headline is the end of the story in one sentence.
func (r *Report) headline() string {
	switch r.State {
	case backstay.Planned, backstay.Approved:
		return "has not begun; nothing was touched"
	case backstay.Running:
		return "is running"
	case backstay.Holding:
		return "is holding: it waits for a person, time or evidence"
	case backstay.Committed:
		return "is committed and watched; not proven yet"
	case backstay.Proven:
		return "is proven: every step was applied, read back and watched"
	case backstay.RollingBack:
		return "is rolling back"
	case backstay.RolledBack:
		if len(r.Kept) > 0 {
			return fmt.Sprintf("was rolled back; %s of others kept, everything else reads as before", number(len(r.Kept), "later value", "later values"))
		}
		return "was rolled back: everything that can be read reads as before"
	case backstay.Held:
		return fmt.Sprintf("is HELD: %s not restored", number(len(r.Residue), "part is", "parts are"))
	case backstay.Closed:
		return fmt.Sprintf("was closed with residue: %s accepted as different", number(len(r.Residue), "part was", "parts were"))
	case backstay.Refused:
		return "was refused; nothing was touched"
	}
	return "is in a state that this version does not know: " + string(r.State)
}

// clock is the time line of a report: started, ended, total.
func (r *Report) clock() string {
	s := "started " + stamp(r.Started)
	if !r.Ended.IsZero() {
		s += ", ended " + stamp(r.Ended)
	}
	if r.Times.Total != nil {
		s += ", total " + took(r.Times.Total)
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

// what failed, in one line: step or check, cause and class.
func (f *Failure) what() string {
	who := "the deployment"
	switch {
	case f.Step != "":
		who = "step " + f.Step
	case f.Check != "":
		who = f.Check
	case f.Cause == backstay.CauseAborted:
		who = "abort"
	}
	labels := []string{}
	if f.Cause != "" {
		labels = append(labels, string(f.Cause))
	}
	if f.Word != "" {
		labels = append(labels, f.Word)
	}
	if len(labels) > 0 {
		who += " (" + strings.Join(labels, ", ") + ")"
	}
	return who
}

// times says how long noticing and undoing took.
func (r *Report) times() string {
	var parts []string
	if r.Times.Detect != nil {
		parts = append(parts, "noticed after "+took(r.Times.Detect))
	}
	if r.Times.Undo != nil {
		verb := "undone in "
		if r.State != backstay.RolledBack {
			verb = "rolling back took "
		}
		parts = append(parts, verb+took(r.Times.Undo))
	}
	return strings.Join(parts, ", ")
}

// ended says how a step ended and was taken back.
func (s Step) ended() string {
	out := s.Result
	if s.Took != nil && s.Result != begun {
		verb := "in"
		if s.Result == failed {
			verb = "after"
		}
		out += " " + verb + " " + took(s.Took)
	}
	if s.Attempts > 1 {
		out += fmt.Sprintf(", attempt %d", s.Attempts)
	}
	if s.Finding != "" {
		out += ", found " + string(s.Finding) + " by recovery"
	}
	if s.Undo != nil {
		out += "; undo: " + s.Undo.Result
		if s.Undo.Took != nil {
			out += " in " + took(s.Undo.Took)
		}
	}
	return out
}

// place is a part of a resource as one word.
func place(key backstay.Key, part string) string {
	if part == "" {
		return string(key)
	}
	return string(key) + " » " + part
}

func (c Change) place() string { return place(c.Key, c.Part) }

func (s Signal) words() string {
	out := s.Signal
	if s.Step != "" {
		out += " of " + s.Step
	}
	out += " by " + s.Actor.String()
	if s.Actor.Host != "" {
		out += " on " + s.Actor.Host
	}
	if !s.Accepted {
		out += ", refused: " + s.Why
	}
	return out + because(s.Reason)
}

func (v Verdict) words() string {
	what := v.Phase
	if v.Check != v.Phase {
		what += " " + v.Check
	}
	out := fmt.Sprintf("%s: %s%s", what, v.Verdict, because(v.Reason))
	var facts []string
	if v.Samples > 0 {
		facts = append(facts, number(v.Samples, "sample", "samples"))
	}
	if v.Took > 0 {
		facts = append(facts, Duration(v.Took.Std()))
	}
	if len(facts) > 0 {
		out += " (" + strings.Join(facts, ", ") + ")"
	}
	return out
}

func (t Takeover) words() string {
	out := "node " + t.Node
	if t.Previous != "" {
		out += " from " + t.Previous
	}
	return out + because(t.Reason)
}

// words say where the evidence is and what covers it.
func (l Ledger) words() string {
	out := fmt.Sprintf("size %d, root %s", l.Size, l.Root)
	switch {
	case l.Checkpoint == 0:
		return out + "; no signed checkpoint"
	case l.Checkpoint < l.Size:
		return out + fmt.Sprintf("; the newest signed checkpoint covers the first %d entries", l.Checkpoint)
	}
	return out + "; covered by a signed checkpoint"
}

// offset is the time since the start, of one width.
func offset(d backstay.Duration) string { return "+" + Duration(d.Std()) }

func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
