package flag

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

const checkout = backstay.Key("flag:new-checkout")

const booleanFlag = `{"key": "new-checkout", "on": true, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`

func memory(tb testing.TB) *ledger.Store {
	tb.Helper()
	l, err := sqlite.OpenMemory(tb.Context(), ledger.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func ann() backstay.Actor { return backstay.Actor{UID: 1000, Name: "ann", Host: "here"} }
func bob() backstay.Actor { return backstay.Actor{UID: 1001, Name: "bob", Host: "here"} }

func set(tb testing.TB, s *Store, key, text string) Entry {
	tb.Helper()
	e, err := s.Set(tb.Context(), Edit{Kind: model.FlagKind, Key: key, Definition: &model.Source{Data: []byte(text)}, Reason: "new"})
	if err != nil {
		tb.Fatal(err, backstay.HintOf(err))
	}
	return e.Entry
}

func TestSet(t *testing.T) {
	t.Parallel()
	s := New(memory(t), ann(), time.Now)
	e := set(t, s, "new-checkout", booleanFlag)
	if e.Version != 1 || !strings.Contains(string(e.Definition.JSON), `"salt":"`) {
		t.Errorf("a new flag: got version %d, %s", e.Version, e.Definition.JSON)
	}
	got, err := s.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Meta: func(m *model.Meta) { m.Owner = "team-checkout" }, Reason: "owner"})
	if err != nil || !got.Changed || got.Version != 2 || got.Meta.Owner != "team-checkout" {
		t.Errorf("meta: got %+v, %v", got, err)
	}
	if got, err = s.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Move: &model.Move{On: true}}); err != nil || got.Changed {
		t.Errorf("nothing to change: got %+v, %v", got, err)
	}
	_, err = s.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Move: &model.Move{Off: true}, Version: 1})
	var moved *backstay.FlagMovedError
	if !errors.As(err, &moved) || backstay.HintOf(err) == "" {
		t.Errorf("for an older version: got %v", err)
	}
	for name, edit := range map[string]Edit{
		"no such flag": {Kind: model.FlagKind, Key: "none", Move: &model.Move{Off: true}},
		"a bad key":    {Kind: model.FlagKind, Key: "../etc", Definition: &model.Source{Data: []byte(booleanFlag)}},
		"malformed":    {Kind: model.FlagKind, Key: "new-checkout", Definition: &model.Source{Data: []byte(`{"variations": []}`)}},
		"no variant":   {Kind: model.FlagKind, Key: "new-checkout", Move: &model.Move{Tester: "qa", Variant: "blue"}},
	} {
		if _, err := s.Set(t.Context(), edit); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].Version != 2 {
		t.Errorf("after refusals: got %+v, %v", all, err)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("model/testdata/launchdarkly.json")
	if err != nil {
		t.Fatal(err)
	}
	s := New(memory(t), ann(), time.Now)
	src := model.Source{File: "launchdarkly.json", Data: data}
	want := []Imported{{checkout, "created"}, {"flag:payments", "created"}, {"flag:theme", "created"}, {"segment:beta", "created"}}
	for _, dry := range []bool{true, false} {
		got, _, err := s.Import(t.Context(), src, "moving house", dry)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("dry %v (-want +got): %v\n%s", dry, err, diff)
		}
	}
	if got, _, err := s.Import(t.Context(), src, "again", false); err != nil || got[0].Action != "same" {
		t.Errorf("the same again: got %v, %v", got, err)
	}
	if e, err := s.Get(t.Context(), checkout); err != nil || e.Version != 1 {
		t.Errorf("the same again made version %d, %v", e.Version, err)
	}
	broken := strings.Replace(string(data), `"op": "endsWith"`, `"op": "ends"`, 1)
	if _, _, err := s.Import(t.Context(), model.Source{Data: []byte(strings.Replace(broken, `"on": false`, `"on": true`, 1))}, "", false); err == nil {
		t.Error("a malformed import is no error")
	}
	if e, err := s.Get(t.Context(), "flag:theme"); err != nil || e.Version != 1 {
		t.Errorf("half of a malformed import happened: %+v, %v", e, err)
	}
	if _, err := s.Remove(t.Context(), "segment:beta", "unused"); err == nil || !strings.Contains(err.Error(), "flag:new-checkout names it") {
		t.Errorf("remove what is named: got %v", err)
	}
	if _, err := s.Remove(t.Context(), checkout, "released long ago"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), checkout); backstay.ClassOf(err) != backstay.NotFound {
		t.Errorf("a removed flag: got %v", err)
	}
	back, err := s.Restore(t.Context(), checkout, 0, "not so")
	if err != nil || back.Version != 3 || back.Exposure() != "10% true, 90% false" {
		t.Errorf("a removed flag brought back: got %+v, %v", back, err)
	}
}

func TestKillAndRestore(t *testing.T) {
	t.Parallel()
	s := New(memory(t), ann(), time.Now)
	was := set(t, s, "new-checkout", booleanFlag)
	killed, err := s.Kill(t.Context(), checkout, "orders fail")
	if err != nil || !killed.Changed || killed.Exposure() != "off: false" || killed.Version != 2 {
		t.Fatalf("kill: got %+v, %v", killed, err)
	}
	if again, err := s.Kill(t.Context(), checkout, "again"); err != nil || again.Changed {
		t.Errorf("kill twice: got %+v, %v", again, err)
	}
	history, err := s.History(t.Context(), checkout, 0)
	if err != nil || len(history) != 2 {
		t.Fatal(history, err)
	}
	got := history[0]
	if got.Act != "kill" || got.Reason != "orders fail" || got.Actor.Name != "ann" || got.Before != "on: true" || got.After != "off: false" {
		t.Errorf("its entry: got %+v", got)
	}
	back, err := s.Restore(t.Context(), checkout, 0, "fixed")
	if err != nil || !back.State.Equal(was.State) || back.Version != 3 {
		t.Errorf("restored: got %+v, %v; want the state before", back, err)
	}
	if _, err := s.Restore(t.Context(), checkout, 9, ""); backstay.ClassOf(err) != backstay.NotFound {
		t.Errorf("restore a version that never was: got %v", err)
	}
	if _, err := s.Kill(t.Context(), "flag:none", "x"); backstay.ClassOf(err) != backstay.NotFound {
		t.Errorf("kill what is not there: got %v", err)
	}
}

func TestTwoPeople(t *testing.T) {
	t.Parallel()
	l, now := memory(t), time.Now()
	clock := func() time.Time { return now }
	first, second := New(l, ann(), clock), New(l, bob(), clock)
	set(t, first, "new-checkout", booleanFlag)
	if _, err := first.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Meta: func(m *model.Meta) { m.People = 2 }}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // one person twice is one person
		if k, err := first.Kill(t.Context(), checkout, "orders fail"); err != nil || !k.Waits || k.Changed || k.Exposure() != "on: true" {
			t.Fatalf("the first person: got %+v, %v", k, err)
		}
	}
	if k, err := second.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Move: &model.Move{Share: share(10_000)}}); err != nil || !k.Waits {
		t.Errorf("a second person who wants something else: got %+v, %v", k, err)
	}
	if k, err := second.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Meta: func(m *model.Meta) { m.People = 1 }}); err != nil || !k.Waits {
		t.Errorf("one person ends the rule: got %+v, %v", k, err)
	}
	if k, err := second.Kill(t.Context(), checkout, "orders fail"); err != nil || !k.Waits {
		t.Fatalf("asked anew: got %+v, %v", k, err)
	}
	now = now.Add(2 * AskedFor)
	if k, err := first.Kill(t.Context(), checkout, "too late"); err != nil || !k.Waits {
		t.Errorf("hours later: got %+v, %v", k, err)
	}
	now = time.Now()
	k, err := second.Kill(t.Context(), checkout, "yes")
	if err != nil || !k.Changed || k.By == nil || k.By.Name != "ann" || k.Exposure() != "off: false" {
		t.Fatalf("the second person: got %+v, %v", k, err)
	}
	history, err := first.History(t.Context(), checkout, 2)
	if err != nil || history[0].Act != "kill" || history[0].Second == nil || history[0].Second.Name != "ann" || history[0].Actor.Name != "bob" ||
		history[1].Summary() != "asks a second person for: off: false" {
		t.Errorf("its entries: got %+v, %v", history, err)
	}
	for name, change := range map[string]func() (Outcome, error){
		"restore": func() (Outcome, error) { return first.Restore(t.Context(), checkout, 1, "x") },
		"remove":  func() (Outcome, error) { return first.Remove(t.Context(), checkout, "x") },
	} {
		if k, err := change(); err != nil || !k.Waits {
			t.Errorf("%s by one: got %+v, %v", name, k, err)
		}
	}
	if _, _, err := first.Import(t.Context(), model.Source{Data: []byte(`{"flags": {"new-checkout": ` + booleanFlag + `}}`)}, "x", false); err == nil || !strings.Contains(err.Error(), "2 people") {
		t.Errorf("import by one: got %v", err)
	}
	if e, err := first.Get(t.Context(), checkout); err != nil || e.Version != 3 {
		t.Errorf("after all that: version %d, %v", e.Version, err)
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := New(memory(t), ann(), func() time.Time { return now })
	for key, text := range map[string]string{
		"done":   `{"key": "done", "on": true, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`,
		"dead":   `{"key": "dead", "on": false, "variations": [true, false], "offVariation": 1}`,
		"full":   `{"key": "full", "on": true, "variations": [1, 2], "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 0}, {"variation": 1, "weight": 100000}]}}}`,
		"moving": `{"key": "moving", "on": true, "variations": [1, 2], "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 1}, {"variation": 1, "weight": 99999}]}}}`,
		"ruled":  `{"key": "ruled", "on": true, "variations": [1, 2], "fallthrough": {"variation": 0}, "rules": [{"variation": 1, "clauses": [{"attribute": "a", "op": "in", "values": [1]}]}]}`,
	} {
		set(t, s, key, text)
	}
	got := map[string]string{}
	now = now.Add(25 * time.Hour)
	stale, err := s.Stale(t.Context(), 24*time.Hour)
	for _, st := range stale {
		got[st.Definition.Key] = st.Gives
	}
	if diff := cmp.Diff(map[string]string{"done": "on: true", "dead": "off: false", "full": "100% 2"}, got); err != nil || diff != "" {
		t.Errorf("(-want +got): %v\n%s", err, diff)
	}
	if young, err := s.Stale(t.Context(), 26*time.Hour); err != nil || len(young) != 0 {
		t.Errorf("a day is not over: got %v, %v", young, err)
	}
}
