package command

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proc"
)

// PrepareCheck freezes a verify entry.
func (d *Driver) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c checkConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode run check: %w", err)
	}
	p := &preparer{req: req}
	b := body{V: bodyFormat, PassEnv: c.PassEnv, Env: p.env(c.Env, c.PassEnv), Dir: p.dir(c.Dir)}
	run, err := p.line("run", c.Run, b.Dir)
	if err != nil {
		return backstay.Prepared{}, err
	}
	b.Run = *run
	return p.result(backstay.Prepared{
		Body: backstay.Canonical(b), Summary: "run " + c.Run.String(), Timeout: orDefault(req.Timeout, checkTimeout),
	})
}

// Check runs the command once: exit status 0 passes, any other fails, and so
// does a command that is late. One that cannot be started is an error.
func (d *Driver) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	limit := orDefault(call.Step.Timeout, checkTimeout).Std()
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took longer than %s", limit))
	defer cancel()
	c, err := d.command(bounded, call, b, "check", b.Run)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	for name, slot := range map[string]string{"SIDE": "side", "ENDPOINT": "endpoint"} {
		if value := call.Slots[slot]; value != "" {
			c.Info[proc.EnvPrefix+name] = value
		}
	}
	begun := time.Now()
	exit, err := proc.Run(bounded, c)
	result := backstay.CheckResult{Verdict: backstay.Fail, Samples: 1, Duration: time.Since(begun)}
	switch {
	case ctx.Err() != nil:
		return backstay.CheckResult{}, fmt.Errorf("check: %w", context.Cause(ctx))
	case bounded.Err() != nil && err != nil:
		result.Reason = context.Cause(bounded).Error()
	case err != nil:
		return backstay.CheckResult{}, startError("check", b.Run, err)
	case exit.OK():
		result.Verdict, result.Reason = backstay.Pass, "exited with status 0"
	default:
		result.Reason = exit.String()
	}
	return result, nil
}
