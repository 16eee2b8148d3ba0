package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/control"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// host answers, while this process drives deployments, people of other uids on
// the control socket. The returned function ends it.
func (s *session) host(ctx context.Context) (end func()) {
	alone := func(err error) {
		if err != nil {
			s.c.progress("nobody of another uid can approve or steer what this process drives: %s", err)
		}
	}
	host, err := control.NewHost(s.state.DataDir, s.answerGuest, s.log)
	if err != nil {
		alone(err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { alone(host.Serve(ctx)) })
	return func() {
		cancel()
		serving.Wait()
	}
}

// answerGuest does what a peer of the control socket asks, as that peer.
func (s *session) answerGuest(ctx context.Context, peer control.Peer, req control.Request) control.Answer {
	g := *s
	g.actor = s.accounts.ActorOf(peer.UID, req.Verb)
	g.c = &call{app: s.c.app, verb: req.Verb, out: newPrinter(io.Discard, false), err: newPrinter(io.Discard, false)}
	st := asked(req)
	dep, err := g.chooseFor(ctx, req.Ref, st)
	if err != nil {
		return refusalOf(err)
	}
	sig, err := g.signal(st.kind, st.reason)
	if err != nil {
		return refusalOf(err)
	}
	sig.Guest = g.isGuest()
	doc, err := g.steerDeployment(ctx, dep, sig, st)
	if err != nil {
		return refusalOf(err)
	}
	return control.Answer{
		Deployment: doc.Deployment, Name: doc.Name, Signal: doc.Signal, Step: doc.Step, Plan: doc.Plan, Actor: g.actor.String(),
		Driver: doc.driver, Answered: doc.Answered, Accepted: doc.Accepted, Why: doc.Why,
	}
}

// isGuest reports whether the actor cannot open the ledger himself.
func (s *session) isGuest() bool { return s.actor.UID != 0 && s.actor.UID != os.Geteuid() }

// chooseFor finds the deployment that the actor means. A guest who names none
// means the one that an approve step of its plan names him for; of others he is
// told nothing.
func (s *session) chooseFor(ctx context.Context, ref string, st steering) (ledger.Deployment, error) {
	if !s.isGuest() {
		return s.choose(ctx, refArgs(ref), st.what, st.states...)
	}
	if ref != "" {
		dep, err := s.find(ctx, ref)
		if errors.Is(err, ledger.ErrNotFound) {
			return dep, &backstay.RefusedError{What: "choice", Err: fmt.Errorf("%s is no deployment here", ref), Hint: "ask who deploys for its name"}
		}
		return dep, err
	}
	candidates, err := s.store.List(ctx, ledger.Filter{States: st.states, Limit: allOfThem})
	if err != nil {
		return ledger.Deployment{}, fmt.Errorf("list deployments: %w", err)
	}
	e, err := s.here()
	if err != nil {
		return ledger.Deployment{}, err
	}
	var theirs []ledger.Deployment
	for _, dep := range candidates {
		p, _, err := e.Replay(ctx, dep.ID)
		if err != nil {
			return ledger.Deployment{}, err
		}
		if engine.Named(p, s.actor, s.accounts.MemberOf) {
			theirs = append(theirs, dep)
		}
	}
	switch len(theirs) {
	case 0:
		return ledger.Deployment{}, &backstay.RefusedError{
			What: "choice", Err: fmt.Errorf("no deployment that names %s in an approve step %s", s.actor, st.what), Hint: "ask who deploys",
		}
	case 1:
		return theirs[0], nil
	}
	return ledger.Deployment{}, s.ambiguous(theirs, st.what)
}

func refArgs(ref string) []string {
	if ref == "" {
		return nil
	}
	return []string{ref}
}

// refusalOf is an error as the other side of the socket may hear it. What is no
// refusal is a fault of this side, and its text for this side's eyes.
func refusalOf(err error) control.Answer {
	var refused *backstay.RefusedError
	if errors.As(err, &refused) {
		return control.Answer{Refusal: &control.Refusal{What: refused.What, Error: refused.Err.Error(), Hint: hintFor(err)}}
	}
	return control.Answer{Refusal: &control.Refusal{
		What: "request", Error: "the process that drives deployments met an error", Hint: "who drives it sees more with -v",
	}}
}
