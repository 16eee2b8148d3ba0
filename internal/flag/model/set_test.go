package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"

	"github.com/backstay-dev/backstay"
)

func parse(tb testing.TB, text string) Definition {
	tb.Helper()
	d, _, err := Parse(FlagKind, "", Source{Data: []byte(text)})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func setOf(tb testing.TB, all ...Definition) *Set {
	tb.Helper()
	set := NewSet()
	var err error
	for _, d := range all {
		if set, err = set.With([]backstay.Flag{{Key: d.StoreKey(), Version: 1, State: State(d, Meta{})}}); err != nil {
			tb.Fatal(err)
		}
	}
	return set
}

// TestBucketsAreLaunchDarklys holds LaunchDarkly's published bucket values
// against what a rollout gives just below and just above each.
func TestBucketsAreLaunchDarklys(t *testing.T) {
	t.Parallel()
	for user, bucket := range map[string]float64{"userKeyA": 0.42157587, "userKeyB": 0.6708485, "userKeyC": 0.10343106} {
		for _, c := range []struct {
			weight int
			want   bool
		}{{int(bucket * Whole), false}, {int(bucket*Whole) + 1, true}} {
			set := setOf(t, parse(t, fmt.Sprintf(`{"key": "hashKey", "salt": "saltyA", "on": true, "variations": [true, false],
				"fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": %d}, {"variation": 1, "weight": %d}]}}}`, c.weight, Whole-c.weight)))
			if got := set.Evaluate("hashKey", ldcontext.New(user)); got.Value.BoolValue() != c.want || got.Reason != "SPLIT" {
				t.Errorf("%s at %d: got %+v, want %v", user, c.weight, got, c.want)
			}
		}
	}
}

// TestRaisingMovesNobodyOut moves a dial through its shares over 100,000 users:
// who had the variant keeps it, and each share is what chance allows.
func TestRaisingMovesNobodyOut(t *testing.T) {
	t.Parallel()
	const users = 100_000
	for name, text := range map[string]string{
		"a new flag":           `{"key": "f", "salt": "a-salt", "on": false, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`,
		"growing from the top": `{"key": "f", "salt": "other", "on": true, "variations": [true, false], "offVariation": 1, "fallthrough": {"rollout": {"variations": [{"variation": 1, "weight": 99000}, {"variation": 0, "weight": 1000}]}}}`,
		"its own seed":         `{"key": "f", "salt": "x", "on": true, "variations": ["a", "b"], "offVariation": 1, "fallthrough": {"rollout": {"kind": "experiment", "seed": 61, "variations": [{"variation": 0, "weight": 1000}, {"variation": 1, "weight": 99000}]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := parse(t, text)
			had := make([]bool, users)
			for _, share := range []int{1000, 10_000, 50_000, Whole} {
				var err error
				if d, err = (Move{Share: &share}).Apply(d, Meta{}); err != nil {
					t.Fatal(err)
				}
				set := setOf(t, d)
				got := 0
				for i := range users {
					r := set.Evaluate("f", ldcontext.New(fmt.Sprintf("user-%d", i)))
					has := r.Value.BoolValue() || r.Value.StringValue() == "a"
					if had[i] && !has {
						t.Fatalf("user-%d lost the variant at %d", i, share)
					}
					had[i] = has
					if has {
						got++
					}
				}
				p := float64(share) / Whole
				if bound := 4.5 * math.Sqrt(users*p*(1-p)); math.Abs(float64(got)-users*p) > bound {
					t.Errorf("at %.1f%%: %d of %d users, more than %.0f off", p*100, got, users, bound)
				}
				t.Logf("at %.1f%%: %d of %d", p*100, got, users)
			}
		})
	}
}

func TestMoves(t *testing.T) {
	t.Parallel()
	share := func(n int) *int { return &n }
	const boolean = `{"key": "f", "salt": "s", "on": false, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1, "rules": [{"id": "r", "variation": 0, "clauses": []}]}`
	const colours = `{"key": "f", "salt": "s", "on": true, "variations": ["red", "blue", "green"], "fallthrough": {"variation": 0}, "offVariation": 0}`
	for name, c := range map[string]struct {
		text string
		meta Meta
		move Move
		want string // its exposure
		err  string
	}{
		"off":                  {text: colours, move: Move{Off: true}, want: "off: red"},
		"on":                   {text: boolean, move: Move{On: true}, want: "on: true"},
		"a share":              {text: boolean, move: Move{Share: share(10_000)}, want: "10% true, 90% false"},
		"half a percent":       {text: boolean, move: Move{Share: share(500)}, want: "0.5% true, 99.5% false"},
		"all":                  {text: boolean, move: Move{Share: share(Whole)}, want: "on: true"},
		"none":                 {text: boolean, move: Move{Share: share(0)}, want: "on: false"},
		"a named variant":      {text: boolean, meta: Meta{Variants: []string{"new", "old"}}, move: Move{Share: share(Whole), Variant: "old"}, want: "on: old"},
		"a text":               {text: colours, move: Move{Share: share(20_000), Variant: "green"}, want: "20% green, 80% red"},
		"a number":             {text: colours, move: Move{Share: share(Whole), Variant: "1"}, want: "on: blue"},
		"no such variant":      {text: colours, move: Move{Share: share(Whole), Variant: "pink"}, err: `flag f has no variant "pink": it has red, blue, green`},
		"which variant":        {text: colours, move: Move{Share: share(1)}, err: "say which variant of flag f: it has red, blue, green"},
		"of three split":       {text: `{"key": "f", "on": true, "variations": ["a", "b", "c"], "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 50000}, {"variation": 1, "weight": 50000}]}}}`, move: Move{Share: share(1), Variant: "c"}, err: "flag f is split between several other variants: say what everybody gets with a definition (from)"},
		"a tester":             {text: boolean, move: Move{Tester: "qa"}, want: "on: false"},
		"a tester of another":  {text: `{"key": "f", "on": true, "variations": ["a", "b"], "offVariation": 0, "fallthrough": {"variation": 0}, "targets": [{"variation": 0, "values": ["qa"]}]}`, move: Move{Tester: "qa"}, err: "tester qa is a target of another variant of flag f"},
		"on without a way":     {text: `{"key": "f", "variations": [1]}`, move: Move{On: true}, err: "flag f has no fallthrough, so turning it on says nothing: name a variant"},
		"nothing for the rest": {text: `{"key": "f", "variations": ["a", "b", "c"], "offVariation": 2}`, move: Move{Share: share(1), Variant: "c"}, err: "nothing says what those get who do not get the variant: give flag f another offVariation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := parse(t, c.text)
			got, err := c.move.Apply(d, c.meta)
			if c.err != "" || err != nil {
				if err == nil || err.Error() != c.err {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if e := Exposure(got, c.meta); e != c.want {
				t.Errorf("got %s, want %s", e, c.want)
			}
			again, err := c.move.Apply(got, c.meta)
			if err != nil || string(again.JSON) != string(got.JSON) {
				t.Errorf("twice is not once: %s, then %s, %v", got.JSON, again.JSON, err)
			}
			var before, after map[string]json.RawMessage
			if err := errors.Join(json.Unmarshal(d.JSON, &before), json.Unmarshal(got.JSON, &after)); err != nil {
				t.Fatal(err)
			}
			for _, own := range []string{"on", "fallthrough", "targets"} {
				delete(before, own)
				delete(after, own)
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the move changed more than its own (-before +after):\n%s", diff)
			}
			checkTester(t, c.move, got)
		})
	}
}

func checkTester(t *testing.T, m Move, d Definition) {
	t.Helper()
	if m.Tester == "" {
		return
	}
	set := setOf(t, d)
	if got := set.Evaluate("f", ldcontext.New(m.Tester)); !got.Value.BoolValue() || got.Reason != "TARGETING_MATCH" {
		t.Errorf("the tester gets %+v", got)
	}
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/launchdarkly.json")
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := ParseAll(Source{Data: data, Imported: true})
	if err != nil {
		t.Fatal(err)
	}
	set := setOf(t, all...)
	for name, c := range map[string]struct {
		key, context string
		want         Result
	}{
		"a target":          {"new-checkout", `{"targetingKey": "qa-1"}`, Result{Value: ldvalue.Bool(true), Variant: "true", Reason: "TARGETING_MATCH", Why: "TARGET_MATCH"}},
		"a rule":            {"new-checkout", `{"targetingKey": "ann", "email": "ann@example.com"}`, Result{Value: ldvalue.Bool(true), Variant: "true", Reason: "TARGETING_MATCH", Why: "RULE_MATCH", Rule: "a2f0"}},
		"excluded":          {"new-checkout", `{"targetingKey": "bob", "email": "bob@example.com"}`, Result{Value: ldvalue.Bool(false), Variant: "false", Reason: "SPLIT", Why: "FALLTHROUGH"}},
		"many kinds":        {"new-checkout", `{"kind": "multi", "user": {"key": "x"}, "organisation": {"key": "org-1"}}`, Result{Value: ldvalue.Bool(true), Variant: "true", Reason: "TARGETING_MATCH", Why: "TARGET_MATCH"}},
		"static":            {"payments", `{"targetingKey": "x"}`, Result{Value: ldvalue.String("v2"), Variant: "v2", Reason: "STATIC", Why: "FALLTHROUGH"}},
		"the program's own": {"theme", `{"targetingKey": "x"}`, Result{Reason: "DISABLED", Why: "OFF"}},
		"there is none":     {"none", `{"targetingKey": "x"}`, Result{Err: "FLAG_NOT_FOUND", Details: `there is no flag "none"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			context, err := ReadContext(json.RawMessage(c.context))
			if err != nil {
				t.Fatal(err)
			}
			c.want.Key = c.key
			got := set.Evaluate(c.key, context)
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(Result{}, "Version")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for context, code := range map[string]string{
		`{}`: "TARGETING_KEY_MISSING", `{"targetingKey": ""}`: "TARGETING_KEY_MISSING", `{"targetingKey": 7}`: "INVALID_CONTEXT",
		`[]`: "INVALID_CONTEXT", `null`: "INVALID_CONTEXT", `{"kind": "multi", "user": 1}`: "INVALID_CONTEXT", `{"kind": "multi"}`: "INVALID_CONTEXT", `{"kind": "b d", "key": "a"}`: "INVALID_CONTEXT",
	} {
		var bad *ContextError
		if _, err := ReadContext(json.RawMessage(context)); !errors.As(err, &bad) || bad.Code != code {
			t.Errorf("context %s: got %v, want %s", context, err, code)
		}
	}
}

// TestTag: equal sets have equal tags, whatever way led there.
func TestTag(t *testing.T) {
	t.Parallel()
	a := parse(t, `{"key": "a", "variations": [1]}`)
	b := parse(t, `{"key": "b", "variations": [1]}`)
	one, other := setOf(t, a, b), setOf(t, b, a)
	if one.Tag() != other.Tag() || one.Tag() == setOf(t, a).Tag() {
		t.Errorf("tags: %s, %s, %s", one.Tag(), other.Tag(), setOf(t, a).Tag())
	}
	without, err := one.With([]backstay.Flag{{Key: b.StoreKey(), Version: 2}})
	if err != nil || without.Tag() != setOf(t, a).Tag() || without.Has("b") || len(without.All(ldcontext.New("x"))) != 1 {
		t.Errorf("after a removal: %v, %v", without.Tag(), err)
	}
	changed, err := one.With([]backstay.Flag{{Key: a.StoreKey(), Version: 2, State: State(a, Meta{})}})
	if err != nil || changed.Tag() == one.Tag() || changed.Version("a") != 2 {
		t.Errorf("another version has the same tag: %v, %v", changed.Version("a"), err)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	share := 10_000
	d, err := Move{Share: &share}.Apply(parse(b, `{"key": "f", "salt": "s", "on": false, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`), Meta{})
	if err != nil {
		b.Fatal(err)
	}
	set, user := setOf(b, d), ldcontext.New("user-1")
	b.ReportAllocs()
	for b.Loop() {
		set.Evaluate("f", user)
	}
}
