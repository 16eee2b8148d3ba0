package router

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay-dev/backstay"
)

// counted is a router that fails as it is told, and counts how often it is asked.
type counted struct {
	asked int
	err   error
}

func (c *counted) ask() error { c.asked++; return c.err }

func (c *counted) Read(context.Context) (*Route, error)              { return &Route{}, c.ask() }
func (c *counted) Change(context.Context, *Route, Change) error      { return c.ask() }
func (c *counted) Unready(context.Context, string) ([]string, error) { return nil, c.ask() }
func (c *counted) Busy(context.Context, string) (int64, error)       { return 7, c.ask() }

func (c *counted) Place(*Route, string, []string) (json.RawMessage, error) { return nil, nil }

// A router that does not answer is spared by all who go forward, and asked again
// after its time; what it answers, even a refusal, counts as an answer.
func TestGuard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, down := t.Context(), backstay.Classify(backstay.Transient, errors.New("refused"))
		var g Guards
		c := &counted{err: down}
		one, two := g.Around("shop@/run/x", c), g.Around("shop@/run/x", c)
		other := &counted{}
		for range 20 {
			_, _ = one.Read(ctx)
		}
		_, err := two.Unready(ctx, "blue")
		if c.asked != guardFailures || err == nil || !strings.Contains(err.Error(), "shop@/run/x: it did not answer 5 times in a row and is left alone for 1s") || backstay.ClassOf(err) != backstay.Transient {
			t.Fatalf("asked %d times, then %v", c.asked, err)
		}
		if n, err := g.Around("shop@/run/y", other).Busy(ctx, "blue"); n != 7 || err != nil {
			t.Errorf("another router: %d, %v", n, err)
		}
		// Once a second it is tried, and left alone again.
		time.Sleep(guardDelay + time.Millisecond) //nolint:forbidigo // the bubble's clock
		for range 10 {
			_ = two.Change(ctx, nil, Change{})
		}
		if c.asked != guardFailures+1 {
			t.Errorf("asked %d times after its time", c.asked)
		}
		// It answers: what it says is no matter of the breaker.
		time.Sleep(guardDelay + time.Millisecond) //nolint:forbidigo // the bubble's clock
		c.err = backstay.Classify(backstay.Conflict, errors.New("somebody else has it"))
		for range 10 {
			_, err = one.Read(ctx)
		}
		if c.asked != guardFailures+11 || backstay.ClassOf(err) != backstay.Conflict {
			t.Errorf("asked %d times, %v", c.asked, err)
		}
	})
}
