package model

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-sdk-common/v3/ldreason"
	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"
	evaluation "github.com/launchdarkly/go-server-sdk-evaluation/v3"
	"github.com/launchdarkly/go-server-sdk-evaluation/v3/ldmodel"

	"github.com/backstay-dev/backstay"
)

// Set is a set of flags and segments that can be evaluated. It never changes:
// With makes another one. It is safe for concurrent use.
type Set struct {
	flags    map[string]*flag
	segments map[string]*segment
	keys     []string // of flags, sorted
	sum      [sha256.Size]byte
	eval     evaluation.Evaluator
}

// flag is one flag, made ready.
type flag struct {
	*ldmodel.FeatureFlag
	version  int64
	variants []string
	static   bool // it asks nothing of the context
	sum      [sha256.Size]byte
}

type segment struct {
	*ldmodel.Segment
	sum [sha256.Size]byte
}

var _ evaluation.DataProvider = (*Set)(nil)

// NewSet returns an empty set.
func NewSet() *Set {
	s := &Set{flags: map[string]*flag{}, segments: map[string]*segment{}}
	s.eval = evaluation.NewEvaluator(s)
	return s
}

// With returns the set after changes; removed ones have no parts. What cannot
// be made ready stays as it was, and is told in the error.
func (s *Set) With(changes []backstay.Flag) (*Set, error) {
	next := &Set{flags: maps.Clone(s.flags), segments: maps.Clone(s.segments), keys: s.keys, sum: s.sum}
	next.eval = evaluation.NewEvaluator(next)
	var all error
	for _, c := range changes {
		if err := next.take(c); err != nil {
			all = errors.Join(all, fmt.Errorf("take version %d of %s: %w", c.Version, c.Key, err))
		}
	}
	if changed := func(c backstay.Flag) bool { return s.Has(nameOf(c.Key)) != next.Has(nameOf(c.Key)) }; slices.ContainsFunc(changes, changed) {
		next.keys = slices.Sorted(maps.Keys(next.flags))
	}
	return next, all
}

// nameOf is the flag's or segment's own key.
func nameOf(key backstay.Key) string { return strings.TrimPrefix(string(key), key.Kind()+":") }

func (s *Set) take(c backstay.Flag) error {
	kind, name := Kind(c.Key.Kind()), nameOf(c.Key)
	if !c.Exists() {
		if f := s.flags[name]; kind == FlagKind && f != nil {
			mix(&s.sum, f.sum)
			delete(s.flags, name)
		}
		if g := s.segments[name]; kind == SegmentKind && g != nil {
			mix(&s.sum, g.sum)
			delete(s.segments, name)
		}
		return nil
	}
	d, meta, err := OfState(c.Key, c.State)
	if err != nil {
		return err
	}
	sum := sumOf(c)
	serialization := ldmodel.NewJSONDataModelSerialization()
	if kind == SegmentKind {
		g, err := serialization.UnmarshalSegment(d.JSON)
		if err != nil {
			return fmt.Errorf("read segment: %w", err)
		}
		if old := s.segments[name]; old != nil {
			mix(&s.sum, old.sum)
		}
		s.segments[name] = &segment{&g, sum}
		mix(&s.sum, sum)
		return nil
	}
	f, err := serialization.UnmarshalFeatureFlag(d.JSON)
	if err != nil {
		return fmt.Errorf("read flag: %w", err)
	}
	if old := s.flags[name]; old != nil {
		mix(&s.sum, old.sum)
	}
	ready := &flag{FeatureFlag: &f, version: c.Version, sum: sum}
	ready.static = len(f.Rules)+len(f.Targets)+len(f.ContextTargets)+len(f.Prerequisites)+len(f.Fallthrough.Rollout.Variations) == 0
	for i, v := range f.Variations {
		ready.variants = append(ready.variants, variantName(meta.Variants, i, v))
	}
	s.flags[name] = ready
	mix(&s.sum, sum)
	return nil
}

// variantName is what clients are told of a variation: its name, else what says
// most in one word.
func variantName(names []string, i int, value ldvalue.Value) string {
	switch {
	case i < len(names) && names[i] != "":
		return names[i]
	case value.IsString() && value.StringValue() != "" && len(value.StringValue()) <= 64:
		return value.StringValue()
	case value.IsBool() || value.IsNumber():
		return value.JSONString()
	}
	return fmt.Sprint(i)
}

// sumOf tells one version of one flag from every other.
func sumOf(f backstay.Flag) [sha256.Size]byte {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, f.Version) // a hash takes everything
	h.Write([]byte(f.Key))
	for _, part := range []string{backstay.FlagDefinition, backstay.FlagMeta} {
		h.Write([]byte{0})
		h.Write(f.State.Parts[part])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// mix puts one sum into the sum of all, or takes it out.
func mix(all *[sha256.Size]byte, one [sha256.Size]byte) { subtle.XORBytes(all[:], all[:], one[:]) }

// Tag names the content of the set: equal sets have equal tags, wherever they are.
func (s *Set) Tag() string { return base64.RawURLEncoding.EncodeToString(s.sum[:18]) }

// Len is how many flags there are.
func (s *Set) Len() int { return len(s.flags) }

// Has reports whether there is such a flag.
func (s *Set) Has(key string) bool { return s.flags[key] != nil }

// Version is the version of a flag; 0: there is none.
func (s *Set) Version(key string) int64 {
	if f := s.flags[key]; f != nil {
		return f.version
	}
	return 0
}

// GetFeatureFlag is for the evaluator.
func (s *Set) GetFeatureFlag(key string) *ldmodel.FeatureFlag {
	if f := s.flags[key]; f != nil {
		return f.FeatureFlag
	}
	return nil
}

// GetSegment is for the evaluator.
func (s *Set) GetSegment(key string) *ldmodel.Segment {
	if g := s.segments[key]; g != nil {
		return g.Segment
	}
	return nil
}

// Result is one evaluation.
type Result struct {
	Key     string
	Value   ldvalue.Value // null: the program's own default
	Variant string
	// Reason is OpenFeature's word; Why is LaunchDarkly's, which says more.
	Reason  string
	Why     string
	Rule    string // ID of the rule that matched
	Version int64
	Err     string // OpenFeature's error code; "": none
	Details string
}

// Evaluate gives the value of a flag for a context.
func (s *Set) Evaluate(key string, c ldcontext.Context) Result {
	f := s.flags[key]
	if f == nil {
		return Result{Key: key, Err: "FLAG_NOT_FOUND", Details: fmt.Sprintf("there is no flag %q", key)}
	}
	return s.evaluate(key, f, c)
}

// All evaluates every flag for a context, by key.
func (s *Set) All(c ldcontext.Context) []Result {
	out := make([]Result, len(s.keys))
	for i, key := range s.keys {
		out[i] = s.evaluate(key, s.flags[key], c)
	}
	return out
}

func (s *Set) evaluate(key string, f *flag, c ldcontext.Context) Result {
	detail := s.eval.Evaluate(f.FeatureFlag, c, nil).Detail
	r := Result{Key: key, Value: detail.Value, Version: f.version, Why: string(detail.Reason.GetKind())}
	if i, ok := detail.VariationIndex.Get(); ok && i < len(f.variants) {
		r.Variant = f.variants[i]
	}
	switch detail.Reason.GetKind() {
	case ldreason.EvalReasonOff, ldreason.EvalReasonPrerequisiteFailed:
		r.Reason = "DISABLED"
	case ldreason.EvalReasonTargetMatch, ldreason.EvalReasonRuleMatch:
		r.Reason, r.Rule = "TARGETING_MATCH", detail.Reason.GetRuleID()
	case ldreason.EvalReasonFallthrough:
		switch {
		case f.static:
			r.Reason = "STATIC"
		case len(f.Fallthrough.Rollout.Variations) > 0:
			r.Reason = "SPLIT"
		default:
			r.Reason = "DEFAULT"
		}
	case ldreason.EvalReasonError:
		r.Err, r.Details = "GENERAL", fmt.Sprintf("the flag cannot be evaluated: %s", detail.Reason.GetErrorKind())
	}
	return r
}
