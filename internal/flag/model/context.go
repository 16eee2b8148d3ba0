package model

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"
)

// ContextError says what is wrong with an evaluation context, in OpenFeature's
// word and in a sentence.
type ContextError struct {
	Code string // TARGETING_KEY_MISSING or INVALID_CONTEXT
	Why  string
}

func (e *ContextError) Error() string { return e.Why }

// ReadContext makes a LaunchDarkly context of OpenFeature's: targetingKey (or
// key) is who is asked for, kind is the kind of thing that is ("user" where it
// is left out), everything else an attribute. With the kind "multi" every other
// entry is a context of the kind that it is named by.
func ReadContext(data json.RawMessage) (ldcontext.Context, error) {
	var all map[string]ldvalue.Value
	if err := json.Unmarshal(data, &all); err != nil || all == nil {
		return ldcontext.Context{}, &ContextError{"INVALID_CONTEXT", "the context is not an object"}
	}
	if all["kind"].StringValue() != string(ldcontext.MultiKind) {
		return single(all, ldcontext.Kind(all["kind"].StringValue()))
	}
	multi := ldcontext.NewMultiBuilder()
	for name, part := range all {
		if name == "kind" || name == "targetingKey" {
			continue
		}
		if part.Type() != ldvalue.ObjectType {
			return ldcontext.Context{}, &ContextError{"INVALID_CONTEXT", fmt.Sprintf("%q of a context of many kinds is not an object", name)}
		}
		one, err := single(part.AsValueMap().AsMap(), ldcontext.Kind(name))
		if err != nil {
			return one, err
		}
		multi.Add(one)
	}
	return built(multi.TryBuild())
}

func single(all map[string]ldvalue.Value, kind ldcontext.Kind) (ldcontext.Context, error) {
	key := all["targetingKey"]
	if key.IsNull() {
		key = all["key"]
	}
	switch {
	case key.IsNull() || key.IsString() && key.StringValue() == "":
		return ldcontext.Context{}, &ContextError{"TARGETING_KEY_MISSING", "the context has no targetingKey"}
	case !key.IsString():
		return ldcontext.Context{}, &ContextError{"INVALID_CONTEXT", "targetingKey is not a text"}
	}
	b := ldcontext.NewBuilder(key.StringValue())
	if kind != "" {
		b.Kind(kind)
	}
	for name, value := range all {
		switch name {
		case "targetingKey", "key", "kind", "_meta", "":
			continue
		case "anonymous":
			if !value.IsBool() {
				continue
			}
		case "name":
			if !value.IsString() {
				continue
			}
		}
		b.SetValue(name, value)
	}
	return built(b.TryBuild())
}

func built(c ldcontext.Context, err error) (ldcontext.Context, error) {
	var known *ContextError
	if err != nil && !errors.As(err, &known) {
		err = &ContextError{"INVALID_CONTEXT", err.Error()}
	}
	return c, err
}
