package metric

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// Amount is a number as people write it: 0.5, 50% or a duration (in seconds: 250ms
// is 0.25).
type Amount float64

// SpecShape says how an amount is written.
func (Amount) SpecShape() []string { return []string{"string", "number"} }

// UnmarshalJSON reads all forms.
func (a *Amount) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	bare, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(bare), 64)
	if d, asTime := time.ParseDuration(text); err != nil && asTime == nil {
		v, err = d.Seconds(), nil
	}
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("%q is not an amount such as 0.5, 50%% or 250ms", text)
	}
	if percent {
		v /= 100
	}
	*a = Amount(v)
	return nil
}

// MarshalJSON writes the plain number.
func (a Amount) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(a)) //nolint:wrapcheck // finite
}

// preparer collects everything that is wrong with one declaration.
type preparer struct {
	req      backstay.Request
	problems []backstay.Problem
	secrets  []string
	warnings []string
}

func (p *preparer) refuse(path, message, hint string) {
	p.problems = append(p.problems, backstay.Problem{Path: path, Message: message, Hint: hint})
}

// result is the frozen check, or the refusal.
func (p *preparer) result(kind string, body any, summary string) (backstay.Prepared, error) {
	if len(p.problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: p.problems}
	}
	timeout := p.req.Timeout
	if timeout <= 0 {
		timeout = backstay.Duration(askTimeout)
	}
	return backstay.Prepared{
		Kind: kind, Body: backstay.Canonical(body), Summary: summary, Timeout: timeout, Secrets: p.secrets, Warnings: p.warnings,
	}, nil
}

// askTimeout is how long one answer may take.
const askTimeout = 10 * time.Second

// bodyFormat is the version of the frozen documents of these kinds.
const bodyFormat = 1

// read decodes a frozen check.
func read(step backstay.Step, v *int, body any) error {
	if err := json.Unmarshal(step.Body, body); err != nil {
		return fmt.Errorf("decode check %s: %w", step.ID, err)
	}
	if *v != bodyFormat {
		return &backstay.Error{
			Class: backstay.Permanent, Op: "decode check", Subject: step.ID,
			Err: fmt.Errorf("format %d", *v), Hint: "use the backstay version that planned this deployment",
		}
	}
	return nil
}

// percent writes a share for people.
func percent(f float64) string { return strconv.FormatFloat(100*f, 'g', 3, 64) + " %" }

// undecided is the answer of what could not be asked.
func undecided(format string, args ...any) backstay.CheckResult {
	return backstay.CheckResult{Verdict: backstay.Undecided, Samples: 1, Reason: fmt.Sprintf(format, args...)}
}
