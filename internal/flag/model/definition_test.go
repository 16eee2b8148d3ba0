package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

// TestMalformed: what is wrong is said with its place, and all of it at once.
func TestMalformed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // line:column: path: message
	}{
		"not JSON":           {`{"key": "a",,}`, []string{"1:13:  invalid character"}},
		"cut off":            {`{"key": "a", "variations": [`, []string{"1:29:  ends too early"}},
		"empty":              {``, []string{"1:1:  ends too early"}},
		"a list":             {`[]`, []string{"1:1:  is a list, want an object"}},
		"two documents":      {`{"key":"a","variations":[1]} {}`, []string{"1:30:  something follows"}},
		"key twice":          {"{\"key\": \"a\",\n \"on\": true, \"on\": false}", []string{`2:14:  the key "on" stands there twice`}},
		"not UTF-8":          {"{\"key\": \"a\xff\"}", []string{"1:11:  is not UTF-8"}},
		"byte order mark":    {"\ufeff{}", []string{"1:1:  begins with a byte order mark"}},
		"deep":               {strings.Repeat(`{"a":`, 70), []string{"1:326:  nests deeper"}},
		"no key":             {`{"variations": [true]}`, []string{"1:1:  has no key"}},
		"bad key":            {`{"key": "../x", "variations": [true]}`, []string{`1:9: key "../x" is not a key`}},
		"typo":               {"{\"key\": \"a\", \"variations\": [1],\n\"fallthru\": {}}", []string{"2:1: fallthru unknown key"}},
		"no variations":      {`{"key": "a", "variations": []}`, []string{"1:28: variations is empty"}},
		"wrong shapes":       {`{"key": "a", "on": "yes", "variations": {"a": 1}}`, []string{"1:20: on is a text, want true or false", "1:41: variations is an object, want a list"}},
		"null value":         {`{"key": "a", "variations": [null]}`, []string{"1:29: variations[0] is null"}},
		"variation too high": {`{"key": "a", "variations": [1,2], "offVariation": 2}`, []string{"1:51: offVariation there is no variation 2"}},
		"variation 1.5":      {`{"key": "a", "variations": [1,2], "offVariation": 1.5}`, []string{"1:51: offVariation 1.5 is not a whole number"}},
		"on without way":     {`{"key": "a", "on": true, "variations": [1]}`, []string{"1:1:  is on and has no fallthrough"}},
		"empty fallthrough":  {`{"key": "a", "variations": [1], "fallthrough": {}}`, []string{"1:48: fallthrough gives nothing"}},
		"weights": {`{"key": "a", "variations": [1,2], "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 1000}, {"variation": 7, "weight": -1}]}}}`, []string{
			"1:126: fallthrough.rollout.variations[1].variation there is no variation 7", "1:139: fallthrough.rollout.variations[1].weight -1 is not a weight",
			"1:77: fallthrough.rollout.variations the weights are 999 together",
		}},
		"operator":          {`{"key": "a", "variations": [1], "rules": [{"variation": 0, "clauses": [{"attribute": "b", "op": "is", "values": []}]}]}`, []string{`1:97: rules[0].clauses[0].op there is no operator "is"`}},
		"expression":        {`{"key": "a", "variations": [1], "rules": [{"variation": 0, "clauses": [{"attribute": "b", "op": "matches", "values": ["("]}]}]}`, []string{`1:119: rules[0].clauses[0].values[0] error parsing regexp`}},
		"no attribute":      {`{"key": "a", "variations": [1], "rules": [{"variation": 0, "clauses": [{"op": "in", "values": ["("]}]}]}`, []string{`1:72: rules[0].clauses[0] has no attribute`}},
		"unknown segment":   {`{"key": "a", "variations": [1], "rules": [{"variation": 0, "clauses": [{"op": "segmentMatch", "values": ["beta"]}]}]}`, []string{`1:106: rules[0].clauses[0].values there is no segment "beta"`}},
		"unknown flag":      {`{"key": "a", "variations": [1], "prerequisites": [{"key": "b", "variation": 0}]}`, []string{`1:59: prerequisites[0].key there is no flag "b"`}},
		"its own condition": {`{"key": "a", "variations": [1], "prerequisites": [{"key": "a", "variation": 0}]}`, []string{`1:1: prerequisites is a prerequisite of itself: a → a`}},
		"placeholder":       {`{"key": "a", "variations": [1], "deleted": true}`, []string{`1:44: deleted is a placeholder`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := Parse(FlagKind, "", Source{File: "a.json", Data: []byte(c.text)})
			refused, ok := errors.AsType[*backstay.RefusedError](err)
			if !ok {
				t.Fatalf("got %v, want a refusal", err)
			}
			for i, p := range refused.Problems {
				got := fmt.Sprintf("%d:%d: %s %s", p.Line, p.Column, p.Path, p.Message)
				if i >= len(c.want) || !strings.HasPrefix(got, c.want[i]) || p.File != "a.json" {
					t.Errorf("problem %d: got %s", i, got)
				}
			}
			if len(refused.Problems) < len(c.want) {
				t.Errorf("got %d problems, want %d", len(refused.Problems), len(c.want))
			}
		})
	}
}

// TestImportUnchanged: LaunchDarkly's JSON comes back as it was, but for the
// version, which is the store's; what is not known is kept.
func TestImportUnchanged(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/launchdarkly.json")
	if err != nil {
		t.Fatal(err)
	}
	all, warnings, err := ParseAll(Source{File: "launchdarkly.json", Data: data, Imported: true})
	if err != nil {
		t.Fatal(err, backstay.HintOf(err))
	}
	if len(warnings) != 1 || warnings[0].Path != "flags.theme._maintainer" || warnings[0].Line == 0 {
		t.Errorf("warnings: got %v", warnings)
	}
	var want map[string]map[string]map[string]any
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range all {
		var got map[string]any
		if err := json.Unmarshal(d.JSON, &got); err != nil {
			t.Fatal(err)
		}
		w := want[string(d.Kind)+"s"][d.Key]
		delete(w, "version")
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%s (-file +stored):\n%s", d.Key, diff)
		}
		seen++
	}
	if seen != 4 {
		t.Errorf("got %d definitions", seen)
	}
	if _, _, err := ParseAll(Source{Data: data}); err == nil {
		t.Error("an unknown key is no error where a person wrote the file")
	}
}

func TestReferencesToWhatIsThere(t *testing.T) {
	t.Parallel()
	there := map[string]string{"flag:b": `{"key":"b","variations":[1,2],"prerequisites":[{"key":"a","variation":0}]}`, "segment:beta": `{"key":"beta"}`}
	known := func(kind Kind, key string) (json.RawMessage, bool) {
		s, ok := there[string(StoreKey(kind, key))]
		return json.RawMessage(s), ok
	}
	good := `{"key": "c", "variations": [1], "prerequisites": [{"key": "b", "variation": 1}],
		"rules": [{"variation": 0, "clauses": [{"op": "segmentMatch", "values": ["beta"]}]}]}`
	if _, _, err := Parse(FlagKind, "c", Source{Data: []byte(good), Known: known}); err != nil {
		t.Error(err)
	}
	loop := `{"key": "a", "variations": [1], "prerequisites": [{"key": "b", "variation": 2}]}`
	_, _, err := Parse(FlagKind, "a", Source{Data: []byte(loop), Known: known})
	refused, ok := errors.AsType[*backstay.RefusedError](err)
	if !ok || !strings.Contains(fmt.Sprint(refused.Problems), "a → b → a") || !strings.Contains(fmt.Sprint(refused.Problems), "no variation 2") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	data, err := os.ReadFile("testdata/launchdarkly.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, s := range []string{`{"flags":{"a":{"key":"a","variations":[1e400,-0,"\ud800"]}}}`, `{"flagValues":{"a":[{}]}}`, `{"data":{"flags":{}}}`, `{"flags":{"":{}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, _, err := ParseAll(Source{Data: data, Imported: true})
		if err != nil {
			return
		}
		set := NewSet()
		for _, d := range all {
			again, _, err := Parse(d.Kind, d.Key, Source{Data: d.JSON, Imported: true, Known: func(kind Kind, key string) (json.RawMessage, bool) {
				for _, other := range all {
					if other.Kind == kind && other.Key == key {
						return other.JSON, true
					}
				}
				return nil, false
			}})
			if err != nil || string(again.JSON) != string(d.JSON) {
				t.Fatalf("%s read again: %s, %v", d.JSON, again.JSON, err)
			}
			if set, err = set.With([]backstay.Flag{{Key: d.StoreKey(), Version: 1, State: State(d, Meta{})}}); err != nil {
				t.Fatalf("%s was checked and cannot be evaluated: %v", d.JSON, err)
			}
		}
		c, err := ReadContext(json.RawMessage(`{"targetingKey":"ann","email":"ann@example.com"}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := set.All(c); len(got) != set.Len() {
			t.Fatalf("%d of %d flags evaluated", len(got), set.Len())
		}
	})
}
