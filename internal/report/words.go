package report

import (
	"fmt"
	"maps"
	"slices"
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

// tone is the colour of the end.
func (r *Report) tone() string {
	switch r.State {
	case backstay.Proven, backstay.Committed:
		return "good"
	case backstay.Held, backstay.Closed, backstay.Refused, backstay.RollingBack:
		return "bad"
	case backstay.RolledBack:
		return "undo"
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding:
	}
	return "plain"
}

// stateWords is a state as a word of people.
func stateWords(s backstay.State) string { return strings.ReplaceAll(string(s), "_", " ") }

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
	case f.Cause == backstay.CauseSignalled:
		who = "a report from outside"
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

// leadWords are what a failure leads to, in order.
func leadWords(leads []backstay.Lead) string {
	words := make([]string, 0, len(leads))
	for _, l := range leads {
		words = append(words, string(l))
	}
	return strings.Join(words, ", then ")
}

// short is what failed, for a picture.
func (f *Failure) short() string {
	switch {
	case f.Step != "":
		return f.Step + " failed"
	case f.Check != "":
		return f.Check + " failed"
	case f.Cause == backstay.CauseAborted:
		return "aborted"
	case f.Cause == backstay.CauseSignalled:
		return "reported bad"
	}
	return "failed"
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
		if s.Undo.With != "" {
			out += " with " + s.Undo.With
		}
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

// what is what the signal's sender did.
func (s Signal) what() string {
	did := map[string]string{
		"approve": "approved", "abort": "asked to take it back", "pause": "paused it", "resume": "resumed it",
		"promote": "ended the bake early", "retry": "asked to undo the residue again", "close": "signed for the residue",
		"fail": "reported that it is bad", "resolved": "reported that it is over",
	}[s.Signal]
	if did == "" {
		did = "asked for " + s.Signal
	}
	if s.Step != "" {
		did += " (step " + s.Step + ")"
	}
	if !s.Accepted {
		did += ", refused: " + s.Why
	}
	return did
}

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

// alerts are the rows of a table about what was reported.
func (s Signal) alerts() [][]string {
	if s.Alarm == nil {
		return nil
	}
	by := orNone(s.Alarm.Source, "not told")
	if s.Alarm.Key != "" {
		by += ", by " + s.Alarm.Key
	}
	var out [][]string
	for _, a := range s.Alarm.Alerts {
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
			labels = append(labels, name+"="+a.Labels[name])
		}
		out = append(out, []string{stamp(s.At), by, a.Name, stamp(a.Since), strings.Join(labels, " "), a.Summary, a.Link})
	}
	if s.Alarm.More > 0 {
		out = append(out, []string{stamp(s.At), by, "and " + number(s.Alarm.More, "more", "more"), "", "", "", ""})
	}
	return out
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
