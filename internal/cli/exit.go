package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitRolledBack  = 2
	exitHeld        = 3
	exitWaiting     = 4
	exitRefused     = 5
	exitInterrupted = 130

	exitDriftFound  = 2 // of `drift`
	exitAuditFailed = 3 // of `audit verify`
)

// ExitCode is one row of the table of exit codes.
type ExitCode struct {
	Code    int    `json:"code"`
	Meaning string `json:"meaning"`
	Next    string `json:"next"`
}

// ExitCodes is what every exit code means and what to do after it.
func ExitCodes() []ExitCode {
	return []ExitCode{
		{exitOK, "committed and proven, or the verb did what was asked", "nothing"},
		{exitFailed, "usage error, or Backstay itself met an error", "read the message; `backstay VERB --help`"},
		{exitRolledBack, "rolled back cleanly: everything reads as before (`drift`: some was found)", "read the cause with `backstay report REF`, fix it, deploy again"},
		{exitHeld, "held: something could not be restored, the residue says what (`audit verify`: the ledger does not verify; `drill`: a cell failed or hung)", "`backstay status REF`, repair, then `backstay rollback REF --retry`"},
		{exitWaiting, "not settled yet: it waits for a person, or another process has to go on", "`backstay status REF`; `backstay approve REF` or `backstay recover REF`"},
		{exitRefused, "refused before anything was touched", "fix what the message names; nothing has to be undone"},
		{exitInterrupted, "stopped by a second Ctrl-C; the ledger is consistent, the deployment is not settled", "`backstay recover REF`"},
	}
}

func exitCodeLine() string {
	return "0 done · 1 error · 2 rolled back · 3 held, residue left ·\n            4 waiting · 5 refused, nothing touched · 130 stopped by a second Ctrl-C"
}

// exitError ends a verb that has said everything itself with an exit code.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// exit returns the error for an exit code; nil for 0.
func exit(code int) error {
	if code == exitOK {
		return nil
	}
	return &exitError{code}
}

// usageError is a command line that could not be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// stoppedError is a deployment that was stopped while it was driven.
type stoppedError struct {
	ref string // what to give to recover
	err error
}

func (e *stoppedError) Error() string { return e.err.Error() }
func (e *stoppedError) Unwrap() error { return e.err }

// ref names the deployment of err for the commands in a hint.
func refOf(err error) string {
	var stopped *stoppedError
	if errors.As(err, &stopped) && stopped.ref != "" {
		return stopped.ref
	}
	return "REF"
}

// failure is one row of the table from error to exit code and next step. The
// first row that matches counts. A hint that err itself brings goes before.
type failure struct {
	name  string // for tests and documents
	match func(error) bool
	code  int
	hint  func(error) string
}

// failures is the one table from error to exit code and hint.
func failures() []failure {
	say := func(hint string) func(error) string { return func(error) string { return hint } }
	return []failure{
		{"exit", as[*exitError], 0, say("")}, // its own code
		{"usage", as[*usageError], exitFailed, say("run `backstay --help`, or `backstay VERB --help`")},
		{"locked", as[*ledger.LockedError], exitRefused, hintLocked},
		{"refused", as[*backstay.RefusedError], exitRefused, hintRefused},
		{"owned", as[*ledger.OwnedError], exitRefused, hintOwned},
		{"fenced", is(ledger.ErrFenced), exitWaiting, func(err error) string {
			return "this process touches nothing any more; watch the other one: backstay status -w " + refOf(err)
		}},
		{"lapsed", is(ledger.ErrLapsed), exitWaiting, func(err error) string {
			return "this process stopped acting; go on with: backstay recover " + refOf(err)
		}},
		{"stopped", is(engine.ErrStopped), exitInterrupted, func(err error) string { return "go on with: backstay recover " + refOf(err) }},
		{"interrupted", is(context.Canceled), exitInterrupted, say("nothing was left running; say it again to go on")},
		{"not found", is(ledger.ErrNotFound), exitFailed, say("list what there is with `backstay history`")},
		{"error", func(error) bool { return true }, exitFailed, say("")},
	}
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func rowOf(err error) failure {
	for _, row := range failures() {
		if row.match(err) {
			return row
		}
	}
	return failure{}
}

// exitCodeOf maps an error to the exit code.
func exitCodeOf(err error) int {
	if err == nil {
		return exitOK
	}
	var done *exitError
	if errors.As(err, &done) {
		return done.code
	}
	return rowOf(err).code
}

// hintFor is what the operator should do next about err.
func hintFor(err error) string {
	if own := backstay.HintOf(err); own != "" {
		return own
	}
	return rowOf(err).hint(err)
}

func hintLocked(err error) string {
	var e *ledger.LockedError
	if !errors.As(err, &e) {
		return ""
	}
	return fmt.Sprintf("look with `backstay status %[1]s`, wait with --wait 10m, or end it with `backstay rollback %[1]s`", e.Lock.Name)
}

func hintRefused(err error) string {
	var e *backstay.RefusedError
	if errors.As(err, &e) && e.Hint != "" {
		return e.Hint
	}
	return "nothing was touched"
}

func hintOwned(err error) string {
	var e *ledger.OwnedError
	if !errors.As(err, &e) {
		return ""
	}
	return fmt.Sprintf("watch it with `backstay status -w %[1]s`; if that process is gone, its lease ends in %[2]s: backstay recover %[1]s --wait 30s",
		e.Deployment, rounded(e.Owner.Left))
}

// errorDocument is how an error looks in JSON.
type errorDocument struct {
	Format   string             `json:"format"`
	Error    string             `json:"error"`
	What     string             `json:"what,omitempty"`
	Problems []backstay.Problem `json:"problems,omitempty"`
	Hint     string             `json:"hint,omitempty"`
	ExitCode int                `json:"exit_code"`
}

// fail reports an error, on stderr or as the JSON result.
func (c *call) fail(err error, code int) {
	var refused *backstay.RefusedError
	isRefused := errors.As(err, &refused)
	if c.json {
		doc := errorDocument{Format: c.format(), Error: clean(err.Error()), Hint: clean(hintFor(err)), ExitCode: code}
		if c.verb == "" {
			doc.Format = "backstay.error/v1"
		}
		if isRefused {
			doc.What, doc.Problems = refused.What, refused.Problems
		}
		write := c.out.document
		if c.lines() {
			write = func(v any) error { return c.out.record(v) }
		}
		_ = write(doc) // the printer keeps the error
		return
	}
	if isRefused && len(refused.Problems) > 0 {
		c.err.problems(refused.Problems)
		c.err.line("")
		c.err.line("%s %s refused: %s. Nothing was touched.", c.err.paint(badTone, "backstay:"), refused.What, count(len(refused.Problems), "problem"))
		if refused.Hint != "" {
			c.err.line("  hint: %s", refused.Hint)
		}
		return
	}
	// What stands behind a join of errors is shown line by line.
	for i, l := range strings.Split(strings.TrimRight(clean(err.Error()), "\n"), "\n") {
		if i == 0 {
			c.err.line("%s %s", c.err.paint(badTone, "backstay:"), l)
			continue
		}
		c.err.line("  %s", l)
	}
	if hint := hintFor(err); hint != "" {
		c.err.line("  hint: %s", hint)
	}
}
