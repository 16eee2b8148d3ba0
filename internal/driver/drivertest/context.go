package drivertest

import (
	"context"
	"sync"
	"time"
)

// CutContext is a context that ends by itself when it has been asked n times
// whether it ended: the n-th call of Err or Done finds it cancelled. Code that
// asks before each of its operations is so stopped before its n-th one, which
// makes every interruption point enumerable.
type CutContext struct {
	parent context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	left int
	cut  bool
}

var _ context.Context = (*CutContext)(nil)

// NewCut returns a context below parent that ends at its n-th question, n
// counting from 0. Release it with Stop.
func NewCut(parent context.Context, n int) *CutContext {
	ctx, cancel := context.WithCancel(parent)
	return &CutContext{parent: ctx, cancel: cancel, left: n}
}

// Stop frees what the context holds.
func (c *CutContext) Stop() { c.cancel() }

// WasCut reports whether the limit was reached.
func (c *CutContext) WasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

func (c *CutContext) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		c.cut = true
		c.cancel()
		return
	}
	c.left--
}

// Deadline is the parent's.
func (c *CutContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }

// Value is the parent's.
func (c *CutContext) Value(key any) any { return c.parent.Value(key) }

// Done counts as one question.
func (c *CutContext) Done() <-chan struct{} {
	c.ask()
	return c.parent.Done()
}

// Err counts as one question.
func (c *CutContext) Err() error {
	c.ask()
	return c.parent.Err()
}
