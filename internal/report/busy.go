package report

import (
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
)

// busy collects the stretches of time of which entries say what was done.
type busy struct {
	last    time.Time
	open    map[string]time.Time // acts under way: "do web", "undo web", "state"
	spans   []interval
	vacant  []Gap // from one node's last entry to a take-over
	checked time.Time
}

type interval struct{ from, to time.Time }

// entry reads one entry.
func (b *busy) entry(e backstay.Entry) {
	if b.open == nil {
		b.open = map[string]time.Time{}
	}
	switch e.Kind {
	case backstay.EntryIntent:
		b.open["do "+e.Step] = e.At
	case backstay.EntryOutcome, backstay.EntryObserved:
		b.end("do "+e.Step, e.At)
		b.checked = e.At
	case backstay.EntryUndoIntent:
		b.open["undo "+e.Step] = e.At // those that it covers end with it
	case backstay.EntryCompensation:
		b.end("undo "+e.Step, e.At)
	case backstay.EntryVerdict:
		// Verification begins when the last step is done, or the bake with the commit.
		if !b.checked.IsZero() {
			b.spans = append(b.spans, interval{b.checked, e.At})
		}
	case backstay.EntryTransition:
		b.end("state", e.At)
		var body backstay.TransitionBody
		if e.Decode(&body) != nil {
			break // the builder reports it
		}
		switch body.To {
		case backstay.Holding, backstay.Committed, backstay.Held: // these wait, and say so
			b.open["state"] = e.At
		case backstay.Planned, backstay.Approved, backstay.Running, backstay.RollingBack, backstay.Proven, backstay.RolledBack, backstay.Closed, backstay.Refused:
		}
	case backstay.EntryTakeover:
		// A deployment that waits writes nothing, whoever drives it.
		if _, waits := b.open["state"]; !waits && e.At.After(b.last) && !b.last.IsZero() {
			b.vacant = append(b.vacant, Gap{b.last, e.At, backstay.Duration(e.At.Sub(b.last)), "it is the time from one node's last entry until another node took over"})
		}
	case backstay.EntryPlanned, backstay.EntrySignal, backstay.EntrySettled, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
	}
	b.last = e.At
}

func (b *busy) end(what string, at time.Time) {
	if from, ok := b.open[what]; ok {
		b.spans = append(b.spans, interval{from, at})
		delete(b.open, what)
	}
}

// leastGap is how long a gap must be to be told.
const leastGap = time.Second

// gaps are the stretches from the start to the end (or the last entry) in
// which nothing was done that an entry tells of. The time until another node
// took over is one, whatever had begun before.
func (b *busy) gaps(from, to time.Time) []Gap {
	if to.IsZero() {
		to = b.last
	}
	spans := slices.Clone(b.spans)
	for _, began := range b.open {
		spans = append(spans, interval{began, to})
	}
	for _, v := range b.vacant {
		spans = append(spans, interval{v.From, v.To})
	}
	slices.SortFunc(spans, func(x, y interval) int { return x.from.Compare(y.from) })
	out := slices.DeleteFunc(slices.Clone(b.vacant), func(g Gap) bool { return g.Took.Std() < leastGap })
	at := from
	add := func(until time.Time) {
		if d := until.Sub(at); d >= leastGap {
			out = append(out, Gap{at, until, backstay.Duration(d), "no entry says what was done"})
		}
	}
	for _, s := range spans {
		if s.from.After(at) {
			add(s.from)
		}
		if s.to.After(at) {
			at = s.to
		}
	}
	add(to)
	slices.SortStableFunc(out, func(x, y Gap) int { return x.From.Compare(y.From) })
	return out
}

// people collects who acted.
type people struct{ all []Person }

func (p *people) did(who backstay.Actor, what string) {
	i := slices.IndexFunc(p.all, func(x Person) bool {
		return x.Actor.UID == who.UID && x.Actor.Name == who.Name && x.Actor.Host == who.Host
	})
	if i < 0 {
		who.Via = ""
		p.all = append(p.all, Person{Actor: who})
		i = len(p.all) - 1
	}
	if !slices.Contains(p.all[i].Did, what) {
		p.all[i].Did = append(p.all[i].Did, what)
	}
}
