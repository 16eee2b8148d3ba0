package backstay

import (
	"errors"
	"fmt"
	"strings"
)

// Error is an error that knows what the operator should do next. Op and
// Subject say what was being done to what; Hint is one sentence or command.
type Error struct {
	Class   ErrorClass
	Op      string
	Subject string
	Err     error
	Hint    string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Subject)
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// ErrNoUndo is the reason why a driver's undo refused to act: it would lose
// what nothing could bring back. What remains is held with cause no_undo.
var ErrNoUndo = errors.New("an undo would lose it")

// Classify wraps err with a class, keeping its message. A nil error stays nil.
func Classify(class ErrorClass, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Class: class, Err: err}
}

// ClassOf returns the class that a driver gave err: the first one on its
// chain; Permanent where there is none. (Whether a context ended is not asked
// here: a dial timeout is a deadline too, and transient.)
func ClassOf(err error) ErrorClass {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			break
		}
		if e.Class != "" {
			return e.Class
		}
		err = e.Err
	}
	return Permanent
}

// HintOf returns the first hint on err's chain, or "".
func HintOf(err error) string {
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Hint != "" {
		return refused.Hint
	}
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Problem is one thing that is wrong with an input, with the place and what
// to do. Line and Column count from 1; 0 means unknown.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"` // steps[2].file.mode
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Source  string `json:"source,omitempty"` // the source line, for display
}

func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, max(p.Column, 1))
	}
	if b.Len() > 0 {
		b.WriteString(" ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// RefusedError is a refusal before anything was touched: exit code 5. It
// carries all problems at once.
type RefusedError struct {
	What     string // "spec", "plan", "drift", "lock", "approval", "state", "policy"
	Problems []Problem
	Err      error // the cause where there is one error rather than a list
	Hint     string
}

func (e *RefusedError) Error() string {
	switch {
	case e.Err != nil && len(e.Problems) == 0:
		return e.What + " refused: " + e.Err.Error()
	case len(e.Problems) == 1:
		return e.What + " refused: " + e.Problems[0].String()
	case e.Err != nil:
		return fmt.Sprintf("%s refused: %d problems: %v", e.What, len(e.Problems), e.Err)
	default:
		return fmt.Sprintf("%s refused: %d problems", e.What, len(e.Problems))
	}
}

func (e *RefusedError) Unwrap() error { return e.Err }
