package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// mitigating refuses the plan of a mitigation that nobody approved ahead, and a
// plan behind broken glass that is too old or ran before.
func (e *Engine) mitigating(ctx context.Context, p *plan.Plan) error {
	m := p.Mitigation
	if m == nil {
		return nil
	}
	entries, err := e.Mitigations(ctx)
	if err != nil {
		return err
	}
	if m.Glass != nil {
		return e.glass(p, entries)
	}
	if got := e.approvals(*m, p.Release, entries); got < m.Count {
		return &backstay.RefusedError{
			What: "approval", Err: fmt.Errorf("mitigation %s has %d of the %d approvals that it needs, as it is written now", m.Name, got, m.Count),
			Hint: fmt.Sprintf("let them look at it and type `backstay mitigate %[1]s --approve`; in an emergency `backstay mitigate %[1]s --break-glass --reason WHY`", m.Name),
		}
	}
	return nil
}

func (e *Engine) glass(p *plan.Plan, entries []Mitigated) error {
	m := p.Mitigation
	again := fmt.Sprintf("make a new one with `backstay mitigate %s --break-glass --reason WHY`", m.Name)
	if m.Glass.Reason == "" {
		return &backstay.RefusedError{What: "approval", Err: errors.New("glass is broken without a reason"), Hint: again}
	}
	if !e.now().Before(m.Glass.Until) {
		return &backstay.RefusedError{What: "approval", Err: fmt.Errorf("the glass of this plan was broken until %s", m.Glass.Until.UTC().Format(time.RFC3339)), Hint: again}
	}
	digest := p.Digest()
	for _, b := range entries {
		if b.Act == backstay.GlassBroken && b.Plan == digest {
			return &backstay.RefusedError{What: "approval", Err: errors.New("glass is broken for one run, and this plan ran"), Hint: again}
		}
	}
	return nil
}

// shout records broken glass before anything is done behind it.
func (e *Engine) shout(ctx context.Context, s Start) error {
	m := s.Plan.Mitigation
	if m == nil || m.Glass == nil {
		return nil
	}
	_, err := e.store.Record(ctx, backstay.Entry{Kind: backstay.EntryMitigation, Actor: &e.opts.Actor, Body: backstay.Canonical(backstay.MitigationBody{
		Act: backstay.GlassBroken, Release: s.Plan.Release, Name: m.Name, Definition: m.Definition, Reason: m.Glass.Reason,
		Deployment: s.ID, Plan: s.Plan.Digest(), Until: m.Glass.Until,
	})})
	if err != nil {
		return fmt.Errorf("record the broken glass: %w", err)
	}
	return nil
}

// Mitigated is one entry about mitigations.
type Mitigated struct {
	At    time.Time
	Actor backstay.Actor
	backstay.MitigationBody
}

// Mitigations reads what was approved ahead and where glass was broken, oldest
// first.
func (e *Engine) Mitigations(ctx context.Context) ([]Mitigated, error) {
	var all []Mitigated
	err := e.store.Walk(ctx, ledger.Query{Kind: backstay.EntryMitigation, AfterLeaf: -1}, func(l ledger.Leaf) error {
		m := Mitigated{At: l.Entry.At}
		if l.Entry.Kind != backstay.EntryMitigation || l.Entry.Actor == nil || l.Entry.Decode(&m.MitigationBody) != nil {
			return nil // damage is what `audit verify` tells
		}
		m.Actor = *l.Entry.Actor
		all = append(all, m)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the mitigations' entries: %w", err)
	}
	return all, nil
}

// Approvals counts the people whose approval of exactly this definition counts.
func (e *Engine) Approvals(ctx context.Context, p *plan.Plan) (int, error) {
	entries, err := e.Mitigations(ctx)
	if err != nil || p.Mitigation == nil {
		return 0, err
	}
	return e.approvals(*p.Mitigation, p.Release, entries), nil
}

func (e *Engine) approvals(m plan.Mitigation, release string, entries []Mitigated) int {
	var people []backstay.Actor
	for _, b := range entries {
		fits := b.Act == backstay.MitigationApproved && b.Release == release && b.Name == m.Name && b.Definition == m.Definition
		if !fits || e.now().Sub(b.At) > m.MaxAge.Std() || m.NotAuthor && onePerson(b.Actor, e.opts.Actor) || !e.MayApprove(m, b.Actor) {
			continue
		}
		if !slices.ContainsFunc(people, func(p backstay.Actor) bool { return onePerson(p, b.Actor) }) {
			people = append(people, b.Actor)
		}
	}
	return len(people)
}

// MayApprove reports whether an actor is one of those who may.
func (e *Engine) MayApprove(m plan.Mitigation, who backstay.Actor) bool {
	return len(m.From) == 0 || slices.ContainsFunc(m.From, func(word string) bool { return e.opts.MemberOf(who, word) })
}

func onePerson(a, b backstay.Actor) bool { return a.UID == b.UID && a.Host == b.Host }
