package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func TestErrorTable(t *testing.T) {
	t.Parallel()
	locked := &ledger.LockedError{Lock: ledger.Lock{Key: "file:/etc/x", Name: "shop#4", State: backstay.Running}}
	owned := &ledger.OwnedError{Deployment: "shop#4", Owner: ledger.Owner{PID: 7, Host: "h", Live: true, Left: 9 * time.Second}}
	for _, tt := range []struct {
		name string
		err  error
		code int
		hint string // part of it
	}{
		{"none", nil, 0, ""},
		{"its own exit", exit(2), 2, ""},
		{"its own exit, joined", errors.Join(nil, exit(3)), 3, ""},
		{"usage", usagef("--limit 0"), 1, "--help"},
		{"refused", &backstay.RefusedError{What: "spec"}, 5, "nothing was touched"},
		{"refused with a hint", &backstay.RefusedError{What: "spec", Hint: "do this"}, 5, "do this"},
		{"refused, wrapped", fmt.Errorf("deploy: %w", &backstay.RefusedError{What: "drift"}), 5, "nothing was touched"},
		{"locked", locked, 5, "backstay rollback shop#4"},
		{"owned", fmt.Errorf("claim: %w", owned), 5, "its lease ends in 9s"},
		{"fenced", fmt.Errorf("write: %w", ledger.ErrFenced), 4, "backstay status -w REF"},
		{"lapsed", &stoppedError{"shop#4", ledger.ErrLapsed}, 4, "backstay recover shop#4"},
		{"stopped", &stoppedError{"shop#4", fmt.Errorf("%w: %w", engine.ErrStopped, errSecondInterrupt)}, 130, "backstay recover shop#4"},
		{"cancelled", context.Canceled, 130, "say it again"},
		{"not found", fmt.Errorf("find shop#9: %w", ledger.ErrNotFound), 1, "backstay history"},
		{"not found with a hint", &backstay.Error{Op: "find", Err: ledger.ErrNotFound, Hint: "look there"}, 1, "look there"},
		{"any other", io.ErrUnexpectedEOF, 1, ""},
		{"any other with a hint", &backstay.Error{Op: "read", Err: io.EOF, Hint: "try"}, 1, "try"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := exitCodeOf(tt.err); got != tt.code {
				t.Errorf("exit code %d, want %d", got, tt.code)
			}
			if tt.err == nil {
				return
			}
			if got := hintFor(tt.err); !strings.Contains(got, tt.hint) || (tt.hint == "") != (got == "") {
				t.Errorf("hint %q, want it to hold %q", got, tt.hint)
			}
		})
	}
}

func TestEveryExitCodeIsExplained(t *testing.T) {
	t.Parallel()
	known := map[int]bool{}
	for _, code := range ExitCodes() {
		known[code.Code] = true
	}
	for _, row := range failures() {
		if !known[row.code] {
			t.Errorf("the row %q gives exit code %d, which explain does not know", row.name, row.code)
		}
	}
	for _, s := range states() {
		if !known[s.ExitCode()] {
			t.Errorf("state %s gives exit code %d, which explain does not know", s, s.ExitCode())
		}
	}
}

func TestWorsePrefersWhatAPersonMustKnow(t *testing.T) {
	t.Parallel()
	got := exitOK
	for _, code := range []int{exitRolledBack, exitHeld, exitWaiting, exitOK} {
		got = worse(got, code)
	}
	if got != exitHeld {
		t.Errorf("worst of rolled back, held, waiting: %d, want %d", got, exitHeld)
	}
}
