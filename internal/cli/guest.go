package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/control"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// lockedOut reports whether a ledger was not opened because it is another
// user's.
func lockedOut(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, sqlite.ErrForeign)
}

// steerAsGuest asks the process that has the ledger open, whose user is another
// one; cause is why this one could not open it.
func (c *call) steerAsGuest(ctx context.Context, args []string, st steering, cause error) error {
	state, err := c.findState()
	if err != nil {
		return err
	}
	req := st.request(c.verb)
	if len(args) > 0 {
		req.Ref = args[0]
	}
	answer, err := control.Ask(ctx, state.DataDir, req)
	if err != nil {
		return c.unheard(state.Dir, state.DataDir, cause, err)
	}
	if r := answer.Refusal; r != nil {
		return &backstay.RefusedError{What: r.What, Err: errors.New(r.Error), Hint: orWord(r.Hint, "nothing was touched")}
	}
	return c.endSteering(steerDocument{
		Format: c.format(), Deployment: answer.Deployment, Name: answer.Name, Signal: answer.Signal, Step: answer.Step, Plan: answer.Plan,
		Answered: answer.Answered, Accepted: answer.Accepted, Why: answer.Why, driver: answer.Driver,
	}, st)
}

// unheard says why a guest reached nobody, and what to do about it.
func (c *call) unheard(dir, dataDir string, cause, err error) error {
	owner := userWord(dir)
	var closed *control.ClosedError
	switch {
	case errors.As(err, &closed):
		hint := fmt.Sprintf("%s can open the way (chmod o+x on the directories above it), or deploy with a --data-dir that you can reach", owner)
		if closed.Dir != "" {
			hint = fmt.Sprintf("%s can open the way (chmod o+x %s), or deploy with a --data-dir that you can reach", owner, quoted(closed.Dir))
		}
		return &backstay.RefusedError{What: c.verb, Err: fmt.Errorf("the ledger is another user's (%w), and %w", cause, err), Hint: hint}
	case errors.Is(err, control.ErrNobody):
		return &backstay.RefusedError{
			What: c.verb,
			Err:  fmt.Errorf("the ledger is another user's (%w), and nobody drives a deployment from %s now", cause, dataDir),
			Hint: fmt.Sprintf("%s goes on with `backstay agent --state %s`; then say it again. Is it another --state or --data-dir?", owner, quoted(dir)),
		}
	}
	return err
}

// userWord names the user who owns a directory, or the first one above it that
// can be seen.
func userWord(dir string) string {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				return "its owner (uid " + strconv.Itoa(int(st.Uid)) + ")"
			}
			return "its owner"
		}
		if dir == filepath.Dir(dir) {
			return "its owner"
		}
	}
}
