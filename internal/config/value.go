package config

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted stands where a value stood.
const redacted = "[redacted]"

// Value is a text that must not be shown. Every way in which Go turns a value
// into text gives "[redacted]"; only Reveal gives the text.
type Value struct{ text string }

// NewValue wraps a text.
func NewValue(text string) Value { return Value{text: text} }

// Reveal returns the text, for the one place that needs it.
func (v Value) Reveal() string { return v.text }

// String hides the text.
func (v Value) String() string { return redacted }

// GoString hides the text.
func (v Value) GoString() string { return redacted }

// Format hides the text whatever the verb: %d or %x of a struct field would
// else go past String.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText hides the text.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON hides the text.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue hides the text.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }
