package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// declare is one step for the tests: its spec part and what the survey saw.
type declare struct {
	id    string
	needs []string
	stage string
	prep  backstay.Prepared
	image backstay.Image
}

func file(id, path, was string, needs ...string) declare {
	k := backstay.Key("file:" + path)
	d := declare{id: id, needs: needs, prep: backstay.Prepared{
		Kind: "file", Body: json.RawMessage(`{"path":"` + path + `"}`), Keys: []backstay.Key{k}, Class: backstay.Exact,
		Effect: backstay.Idempotent, Fence: backstay.Leased, Restorable: true, HasUndo: true,
		Want:    backstay.Image{k: backstay.PartValue("new " + path)},
		Timeout: backstay.Duration(time.Minute), UndoTimeout: backstay.Duration(time.Minute),
		Summary: "write " + path, UndoSummary: "put back " + path, ReadSummary: "read " + path, Blobs: []string{"b1"},
	}}
	state := backstay.ResourceState{}
	if was != "" {
		state = backstay.PartValue(was)
	}
	d.image = backstay.Image{k: state}
	return d
}

func run(id string, class backstay.Class, needs ...string) declare {
	k := backstay.Key("run:" + id)
	p := backstay.Prepared{
		Kind: "run", Keys: []backstay.Key{k}, Class: class, Effect: backstay.AtMostOnce, Fence: backstay.Leased,
		HasUndo: class != backstay.Irreversible, Summary: "run " + id, Timeout: backstay.Duration(time.Minute),
	}
	if class == backstay.Irreversible {
		p.Irreversible = "drops a table"
	}
	return declare{id: id, needs: needs, prep: p, image: backstay.Image{k: {Opaque: true}}}
}

func approve(needs ...string) declare {
	return declare{id: "ok", needs: needs, prep: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Hold: &backstay.Hold{Count: 1, Within: backstay.Duration(time.Hour)},
	}}
}

// ids lists the steps of a plan.
func ids(p *plan.Plan) []string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, s.ID)
	}
	return out
}

func build(steps ...declare) (*plan.Plan, error) {
	s := &spec.Spec{
		Format: "v1", File: "backstay.yaml", Digest: "spec-digest", Release: "shop", Version: "1.10", Owner: "team",
		Inputs:   []spec.Input{{Name: "VERSION", Value: "1.10", Source: spec.FromSet}},
		Rollback: spec.Rollback{Within: backstay.Duration(time.Minute)},
		Bake:     spec.Bake{For: backstay.Duration(time.Minute), Every: backstay.Duration(time.Second), Failures: 3},
	}
	seen := plan.Observed{Steps: map[string]backstay.Prepared{}, Images: map[string]backstay.Image{}}
	for i, d := range steps {
		s.Steps = append(s.Steps, spec.Step{ID: d.id, Kind: d.prep.Kind, Needs: d.needs, Stage: d.stage, Line: 10 + i, Column: 3})
		seen.Steps[d.id], seen.Images[d.id] = d.prep, d.image
	}
	return plan.Build(plan.NewDraft(s), seen)
}

func TestBuildGolden(t *testing.T) {
	t.Parallel()
	p, err := build(
		file("conf", "/etc/shop.conf", "old"),
		file("conf-again", "/etc/shop.conf", "old", "conf"),
		approve("conf-again"),
		run("drop", backstay.Irreversible, "ok"),
	)
	if err != nil {
		t.Fatal(err)
	}
	var pretty strings.Builder
	enc := json.NewEncoder(&pretty)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "plan-v1.json")
	if *update {
		if err := os.WriteFile(golden, []byte(pretty.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), pretty.String()); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	back, err := plan.Decode(p.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if back.Digest() != p.Digest() {
		t.Error("a decoded plan has another digest")
	}
	if p.Steps[0].Before["file:/etc/shop.conf"] != backstay.PartValue("old").Digest() {
		t.Error("the first step does not expect what was observed")
	}
	if p.Steps[1].Before["file:/etc/shop.conf"] != backstay.PartValue("new /etc/shop.conf").Digest() {
		t.Error("the second step does not expect what the first one wants")
	}
	if p.Pivot != "drop" || p.Promise.Class != backstay.Irreversible {
		t.Errorf("pivot %q promise %+v", p.Pivot, p.Promise)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	unreadable := file("conf", "/etc/shop.conf", "")
	unreadable.image = backstay.Image{"file:/etc/shop.conf": {Unreadable: "permission denied"}}
	after := run("later", backstay.Compensated, "drop")
	for _, tc := range []struct {
		name  string
		steps []declare
		want  string
	}{
		{"same key side by side", []declare{file("a", "/etc/x", ""), file("b", "/etc/x", "")}, "at the same time"},
		{"key below another, side by side", []declare{file("a", "/etc/x/y", ""), file("b", "/etc/x", "")}, "at the same time"},
		{"irreversible without approval", []declare{run("drop", backstay.Irreversible)}, "no approve step comes before"},
		{"unsafe step after the pivot", []declare{approve(), run("drop", backstay.Irreversible, "ok"), after}, "cannot be repeated safely"},
		{"step beside the pivot", []declare{approve(), run("drop", backstay.Irreversible, "ok"), file("a", "/etc/x", "", "ok")}, "may run beside the point of no return"},
		{"unreadable before-image", []declare{unreadable}, "cannot be read: permission denied"},
		{"cycle", []declare{file("a", "/x", "", "b"), file("b", "/y", "", "a")}, "cycle"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := build(tc.steps...)
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal", err)
			}
			for _, p := range refused.Problems {
				if strings.Contains(p.Message, tc.want) {
					if p.Line == 0 || p.File == "" {
						t.Errorf("problem %+v has no place", p)
					}
					return
				}
			}
			t.Errorf("no problem says %q: %+v", tc.want, refused.Problems)
		})
	}
}

func TestOverlappingKeysInOrderAreAllowed(t *testing.T) {
	t.Parallel()
	p, err := build(file("conf", "/srv/app/conf", "old"), file("app", "/srv/app", "tree", "conf"))
	if err != nil {
		t.Fatal(err)
	}
	if _, frozen := p.Steps[1].Before["file:/srv/app"]; frozen {
		t.Error("a path above an earlier step's key cannot be known before that step")
	}
}

func TestRevertTurnsTheOrderAround(t *testing.T) {
	t.Parallel()
	p, err := build(file("a", "/a", "old"), approve("a"), file("b", "/b", "old", "ok"), file("c", "/c", "", "ok"))
	if err != nil {
		t.Fatal(err)
	}
	im := func(path, v string) backstay.Image {
		return backstay.Image{backstay.Key("file:" + path): backstay.PartValue(v)}
	}
	var done []plan.Done
	for _, path := range []string{"/a", "/b", "/c"} {
		done = append(done, plan.Done{Step: path[1:], Before: im(path, "old"), After: im(path, "new "+path), Now: im(path, "new "+path)})
	}
	r, err := plan.Revert(p, "id-1", "shop#1", done)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Steps {
		got = append(got, s.ID+" needs "+strings.Join(s.Needs, ","))
	}
	want := []string{"revert-c needs ", "revert-b needs ", "revert-a needs revert-b,revert-c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if r.Reverts != "id-1" || r.Steps[0].Reverts.Target != im("/c", "old").Digest() {
		t.Errorf("revert plan %+v", r.Steps[0].Reverts)
	}
	for _, s := range r.Steps {
		if s.Summary == "" || s.Class != backstay.Exact || len(s.Before) != 1 {
			t.Errorf("step %+v", s)
		}
	}
}

func TestFiveThousandSteps(t *testing.T) {
	t.Parallel()
	var steps []declare
	for i := range 5000 {
		d := file("s"+strconv.Itoa(i), "/srv/"+strconv.Itoa(i), "old")
		if i > 0 {
			d.needs = []string{"s" + strconv.Itoa(i-1)}
		}
		steps = append(steps, d)
	}
	p, err := build(steps...)
	if err != nil || len(p.Steps) != 5000 {
		t.Fatalf("got %v", err)
	}
}

func TestWhatALaterStepFinds(t *testing.T) {
	t.Parallel()
	p, err := build(file("first", "/etc/app/conf", "old"), file("tree", "/etc/app", "old tree", "first"), file("second", "/etc/app/conf", "old", "tree"))
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := p.Step("second"); len(s.Before) != 0 {
		t.Errorf("second expects %v, but the tree step between may change it", s.Before)
	}
}

func TestNothingIrreversibleBesideThePivot(t *testing.T) {
	t.Parallel()
	_, err := build(approve(), run("drop", backstay.Irreversible, "ok"), run("mail", backstay.Irreversible, "ok"))
	if err == nil || !strings.Contains(err.Error(), "beside the point of no return") {
		t.Errorf("got %v", err)
	}
	if _, err := build(approve(), run("drop", backstay.Irreversible, "ok"), run("mail", backstay.Irreversible, "drop")); err != nil {
		t.Errorf("one after the other: %v", err)
	}
}

func TestRevertOfADialIsOneMove(t *testing.T) {
	t.Parallel()
	const route = backstay.Key("mem:route")
	at := func(weight string) backstay.Image { return backstay.Image{route: backstay.PartValue(weight)} }
	steps := []declare{file("conf", "/etc/app/conf", "old")}
	for i, id := range []string{"one", "ten", "fifty"} {
		s := file(id, "/etc/app/"+id, "", []string{"conf", "one", "ten"}[i])
		s.prep.Keys, s.prep.Dial, s.image, s.prep.Want = []backstay.Key{route}, route, at("0"), nil
		steps = append(steps, s)
	}
	old, err := build(steps...)
	if err != nil {
		t.Fatal(err)
	}
	done := []plan.Done{
		{Step: "conf", Before: steps[0].image, After: steps[0].image, Now: steps[0].image},
		{Step: "one", Before: at("0"), After: at("1"), Now: at("50")},
		{Step: "ten", Before: at("1"), After: at("10"), Now: at("50")},
		{Step: "fifty", Before: at("10"), After: at("50"), Now: at("50")},
	}
	p, err := plan.Revert(old, "id", "shop#1", done)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Steps) != 2 || p.Steps[0].ID != "revert-fifty" || p.Steps[1].ID != "revert-conf" {
		t.Fatalf("got steps %v", ids(p))
	}
	if r := p.Steps[0].Reverts; r.Target != at("0").Digest() || r.From != at("50").Digest() {
		t.Errorf("the dial goes from %s to %s, want %s to %s", r.From, r.Target, at("50").Digest(), at("0").Digest())
	}
	if needs := p.Steps[1].Needs; !slices.Equal(needs, []string{"revert-fifty"}) {
		t.Errorf("conf is put back after %v", needs)
	}
	// Somebody moved it between the last two: then each move is taken back alone.
	done[3].Before = at("7")
	if p, err = plan.Revert(old, "id", "shop#1", done); err != nil || len(p.Steps) != 3 {
		t.Errorf("with a move of somebody's between: got %v, %v", ids(p), err)
	}
}

func TestRevertSparesAnOutsidersChange(t *testing.T) {
	t.Parallel()
	s := run("migrate", backstay.Compensated)
	s.image = backstay.Image{"run:migrate": backstay.PartValue("v1")}
	old, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	done := plan.Done{
		Step: "migrate", Before: backstay.Image{"run:migrate": backstay.PartValue("v1")},
		After: backstay.Image{"run:migrate": backstay.PartValue("v2")}, Now: backstay.Image{"run:migrate": backstay.PartValue("theirs")},
	}
	if _, err := plan.Revert(old, "id", "shop#1", []plan.Done{done}); err == nil || !strings.Contains(err.Error(), "changed since") {
		t.Errorf("changed by somebody: got %v", err)
	}
	done.Now = done.After
	if _, err := plan.Revert(old, "id", "shop#1", []plan.Done{done}); err != nil {
		t.Errorf("not changed: %v", err)
	}
}
