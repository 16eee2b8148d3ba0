package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/alert"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// alertPatience is how long a webhook waits for the driver's answer; ahead is how far
// the clock of a monitor may be in front.
const (
	alertPatience = 5 * time.Second
	idlePatience  = time.Second // where nobody drives the deployment; an agent may take it up
	ahead         = 5 * time.Minute
)

// receiveFlags are the flags of signal serve.
type receiveFlags struct {
	listen  []string
	keys    []string
	tokens  []string
	cert    string
	certKey string
}

func (c *call) signalServeCommand() *cobra.Command {
	var f receiveFlags
	cmd := c.command("serve [flags]", "Take in alerts of monitors by webhook, until SIGTERM",
		`Listens for webhooks and hands each to the deployment it is about: an alert that fires turns it around
or rolls it back in its bake; one that is resolved is kept and changes nothing.

  POST /v1/alerts               backstay.alert/v1, signed as Standard Webhooks says with a --key
  POST /v1/alerts/alertmanager  Alertmanager's webhook (version 4), which signs nothing: with a --token
                                as bearer token, so give --cert and --cert-key where others can listen in

An alert is about what its labels say: backstay_deployment (shop#4, or the whole ID), or
backstay_release (the deployment of it that is under way, if the alert began after it did).
docs/guide/evidence.md shows both ends.`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.signalServe(ctx, f) })
	cmd.Flags().StringArrayVar(&f.listen, "listen", []string{"127.0.0.1:8018"}, "listen at this address (repeatable)")
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, "a reference to a key that requests are signed with: secret:env/NAME, secret:file/PATH (repeatable)")
	cmd.Flags().StringArrayVar(&f.tokens, "token", nil, "a reference to a token that Alertmanager brings (repeatable)")
	cmd.Flags().StringVar(&f.cert, "cert", "", "serve TLS with this certificate, a PEM file; a new one counts at once")
	cmd.Flags().StringVar(&f.certKey, "cert-key", "", "the certificate's key, a PEM file")
	return cmd
}

func (c *call) signalServe(ctx context.Context, f receiveFlags) error {
	if (f.cert == "") != (f.certKey == "") {
		return usagef("--cert and --cert-key go together")
	}
	for _, address := range f.listen {
		if len(f.tokens) > 0 && f.cert == "" && !isLoopback(address) {
			return &backstay.RefusedError{
				What: "signal", Err: &net.AddrError{Err: "other hosts can reach it, and a bearer token in the clear can be read on the way", Addr: address},
				Hint: "give --cert and --cert-key, or listen at 127.0.0.1 behind something that speaks TLS",
			}
		}
	}
	keys, err := c.secrets(f.keys)
	if err != nil {
		return err
	}
	tokens, err := c.secrets(f.tokens)
	if err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(cleanWriter{c.err}, &slog.HandlerOptions{Level: level}))
	s.log = log // what goes wrong here is told, also without -v
	handler, err := alert.NewHandler(alert.Options{Keys: keys, Tokens: tokens, Deliver: s.takeReport, Strangers: s.noteStrangers, Now: c.app.Now, Log: log})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer c.onSignal(func(os.Signal) { end() })()
	return alert.Server{
		Listen: f.listen, Cert: f.cert, Key: f.certKey, Handler: handler, Log: log,
		Serving: func(addresses []string) {
			if c.json {
				_ = c.out.record(receivingEvent{c.format(), addresses}) // the printer keeps the error
				return
			}
			c.progress("taking in alerts at %s for %s; SIGTERM or Ctrl-C ends", strings.Join(addresses, ", "), s.state.Redacted())
		},
	}.Run(ctx)
}

// receivingEvent is the line of signal serve --json when it listens.
type receivingEvent struct {
	Format    string   `json:"format"`
	Addresses []string `json:"addresses"`
}

// secrets resolves references; values are kept in memory only.
func (c *call) secrets(refs []string) ([]alert.Secret, error) {
	values, err := c.tokens(refs)
	if err != nil {
		return nil, err
	}
	out := make([]alert.Secret, 0, len(refs))
	for i, ref := range refs {
		out = append(out, alert.Secret{Ref: ref, Value: values[i]})
	}
	return out, nil
}

// takeReport hands what a monitor reports to the deployment that it is about.
func (s *session) takeReport(ctx context.Context, r alert.Report) alert.Answer {
	dep, err := s.reportedOn(ctx, r)
	a := alert.Answer{Deployment: dep.ID, Name: dep.Name}
	if err == nil {
		a.Result, a.Why, err = s.sendReport(ctx, dep, r)
	}
	if err == nil {
		return a
	}
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) {
		s.log.Error("a report could not be handed on", "error", err)
		a.Result, a.Why = alert.Failed, "the ledger could not be asked; send it again"
		return a
	}
	a.Result, a.Why = alert.Refused, refused.Err.Error()
	entry := backstay.Entry{Kind: backstay.EntryRefused, Body: refusedAlert(r.Release, a.Why+" ("+r.Reason+")")}
	switch {
	case refused.What == unmatched:
		a.Result = alert.Unmatched
	case !r.Firing:
		// What is over mostly is so because of a rollback that has ended by now.
		a.Result = alert.Kept
		entry = backstay.Entry{Kind: backstay.EntryNote, Body: backstay.Canonical(backstay.NoteBody{Text: r.Reason + " (" + a.Why + ")"})}
	}
	if !r.Again {
		s.note(ctx, entry)
	}
	return a
}

// sendReport leaves a report for whoever drives the deployment, and says how it was
// answered. The same report is one signal, however often it comes.
func (s *session) sendReport(ctx context.Context, dep ledger.Deployment, r alert.Report) (alert.Result, string, error) {
	if dep.State.Settled() {
		return "", "", refuseState(dep, "it ended, and nothing of it can be turned around", "")
	}
	sig := ledger.Signal{ID: r.ID, Kind: engine.SignalResolved, Reason: r.Reason, Actor: s.actor, At: s.c.app.Now().UTC(), Alarm: &r.Alarm}
	if r.Firing {
		sig.Kind = engine.SignalFail
	}
	patience := alertPatience
	if !driven(dep) {
		patience = idlePatience
	}
	body, err := s.ask(ctx, dep.ID, sig, patience)
	switch {
	case err != nil:
		return "", "", err
	case body != nil && !body.Accepted:
		return alert.Refused, body.Why, nil
	case body != nil:
		return alert.Taken, "", nil
	}
	if dep, err = s.store.Deployment(ctx, dep.ID); err != nil {
		return "", "", err
	}
	switch {
	case dep.State.Settled():
		return "", "", refuseState(dep, "it ended meanwhile", "")
	case driven(dep):
		return alert.Waiting, "who drives it has not answered yet; the report waits in the ledger", nil
	}
	return alert.Waiting, "nobody drives it now; the report waits in the ledger for `backstay agent` or `backstay recover`", nil
}

// unmatched is what is refused of a report that is about no deployment here.
const unmatched = "alert"

// reportedOn finds the deployment that a report is about.
func (s *session) reportedOn(ctx context.Context, r alert.Report) (ledger.Deployment, error) {
	none := func(format string, args ...any) (ledger.Deployment, error) {
		return ledger.Deployment{}, &backstay.RefusedError{What: unmatched, Err: fmt.Errorf(format, args...)}
	}
	if r.Deployment != "" {
		dep, err := s.find(ctx, r.Deployment)
		switch {
		case backstay.ClassOf(err) == backstay.NotFound, backstay.ClassOf(err) == backstay.Conflict, errors.Is(err, ledger.ErrNotFound):
			return none("%q is no deployment here", r.Deployment)
		case err == nil && dep.Name != r.Deployment && dep.ID != strings.ToLower(r.Deployment):
			return none("%q is a part of an ID: give the whole, or a name such as %s", r.Deployment, dep.Name)
		}
		return dep, err
	}
	switch now := s.c.app.Now(); {
	case r.Since.IsZero():
		return none("it names a release and does not say since when it fires: it could be older than the deployment")
	case r.Since.After(now.Add(ahead)):
		return none("it begins at %s, which is yet to come: set the clocks", r.Since.Format(time.RFC3339))
	}
	deps, err := s.store.List(ctx, ledger.Filter{Release: r.Release, States: unsettled(), Limit: allOfThem})
	if err != nil {
		return ledger.Deployment{}, fmt.Errorf("list deployments: %w", err)
	}
	switch {
	case len(deps) > 1:
		return none("%d deployments of release %q are under way: give the label %s", len(deps), r.Release, alert.DeploymentLabel)
	case len(deps) == 1 && r.Since.Before(deps[0].CreatedAt):
		return deps[0], refuseState(deps[0], fmt.Sprintf("the alert fires since %s, and %s began at %s: it has nothing to do with it",
			r.Since.Format(time.RFC3339), deps[0].Name, deps[0].CreatedAt.UTC().Format(time.RFC3339)), "")
	case len(deps) == 1:
		return deps[0], nil
	}
	last, err := s.store.List(ctx, ledger.Filter{Release: r.Release, Limit: 1})
	switch {
	case err != nil:
		return ledger.Deployment{}, fmt.Errorf("list deployments: %w", err)
	case len(last) == 0:
		return none("no release %q was deployed from here", r.Release)
	}
	return last[0], nil
}

// refusedAlert is the body of a refusal.
func refusedAlert(release, why string) []byte {
	return backstay.Canonical(backstay.RefusedBody{What: unmatched, Release: release, Error: why})
}

// note leaves one entry about what no deployment took.
func (s *session) note(ctx context.Context, e backstay.Entry) {
	e.Actor = &s.actor
	if _, err := s.store.Record(context.WithoutCancel(ctx), e); err != nil {
		s.log.Error("a report that no deployment took could not be recorded", "error", err)
	}
}

// noteStrangers leaves one entry about requests that nobody is known to have sent.
func (s *session) noteStrangers(ctx context.Context, n int) {
	s.note(ctx, backstay.Entry{Kind: backstay.EntryRefused, Body: refusedAlert("", count(n, "webhook request")+" not authenticated")})
}
