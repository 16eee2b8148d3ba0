// Package approve is the step kind "approve": a wait for people. It freezes who
// must agree, how many of them and within what time; the engine does the
// waiting, counts approvals and binds them to the plan. The kind itself touches
// nothing, has no keys and nothing to undo.
package approve

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Driver is the kind. It has no state; methods are safe for concurrent use.
type Driver struct{}

var _ driver.Kind = (*Driver)(nil)

// New returns the kind.
func New() *Driver { return &Driver{} }

// Name is "approve".
func (*Driver) Name() string { return "approve" }

// Config returns a step's keys.
func (*Driver) Config() any { return &stepConfig{} }

type stepConfig struct {
	Approve holdConfig `yaml:"approve" json:"approve" required:"true" doc:"Wait here until people agree (backstay approve)." example:"{from: [sre], count: 1, within: 2h}"`
}

type holdConfig struct {
	From      []string          `yaml:"from" json:"from,omitempty" doc:"Who may agree: groups of the host, or single users as user:NAME. Who cannot open the ledger asks through the control socket and must be named. Default: anybody who can open the ledger." example:"[sre, \"user:alice\"]"`
	Count     int               `yaml:"count" json:"count,omitempty" doc:"How many different people must agree. Default: 1." example:"2"`
	Within    backstay.Duration `yaml:"within" json:"within,omitempty" doc:"How long to wait. When the time is over without them the deployment is rolled back. Default: 24h." example:"2h"`
	NotAuthor bool              `yaml:"not-author" json:"not-author,omitempty" doc:"Who started the deployment may not agree to it." example:"true"`
}

const (
	defaultWithin = backstay.Duration(24 * time.Hour)
	maxCount      = 100
)

// Prepare freezes the wait.
func (d *Driver) Prepare(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode approve step: %w", err)
	}
	c := sc.Approve
	problems := check(c)
	if len(problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: problems}
	}
	hold := &backstay.Hold{From: c.From, Count: max(c.Count, 1), Within: c.Within, NotAuthor: c.NotAuthor}
	if hold.Within <= 0 {
		hold.Within = defaultWithin
	}
	who := "anybody"
	if len(c.From) > 0 {
		who = strings.Join(c.From, " or ")
	}
	summary := fmt.Sprintf("wait up to %s for %d approval(s) from %s", hold.Within, hold.Count, who)
	if c.NotAuthor {
		summary += ", not the author"
	}
	return backstay.Prepared{
		Kind: d.Name(), Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Fenced,
		Hold: hold, Timeout: hold.Within, Summary: summary,
	}, nil
}

func check(c holdConfig) (problems []backstay.Problem) {
	refuse := func(path, message, hint string) {
		problems = append(problems, backstay.Problem{Path: path, Message: message, Hint: hint})
	}
	if c.Count < 0 || c.Count > maxCount {
		refuse("approve.count", fmt.Sprintf("%d is not from 1 to %d", c.Count, maxCount), "")
	}
	users, seen := 0, map[string]bool{}
	for i, who := range c.From {
		at := fmt.Sprintf("approve.from[%d]", i)
		name, isUser := strings.CutPrefix(who, "user:")
		switch {
		case name == "" || strings.ContainsAny(name, ": \t\r\n\x00"):
			refuse(at, fmt.Sprintf("%q is neither a group nor user:NAME", who), "such as sre or user:alice")
		case seen[who]:
			refuse(at, fmt.Sprintf("%q stands there twice", who), "drop one")
		}
		seen[who] = true
		if isUser {
			users++
		}
	}
	if len(c.From) > 0 && users == len(c.From) && max(c.Count, 1) > users {
		refuse("approve.count", fmt.Sprintf("%d people must agree, but only %d are named", c.Count, users), "name more, or a group, or lower count")
	}
	return problems
}

// Observe sees nothing: there are no keys.
func (*Driver) Observe(context.Context, backstay.Call) (backstay.Image, error) {
	return backstay.Image{}, nil
}

// Do does nothing: the engine waits.
func (*Driver) Do(ctx context.Context, _ backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, ctx.Err()
}

// Undo does nothing.
func (*Driver) Undo(context.Context, backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, nil
}
