package plan_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// released is a spec with one release step between two others.
func released(keys spec.ReleaseKeys, instances int, gates ...spec.Gate) *spec.Spec {
	keys.Service, keys.Route = "web", "shop"
	return &spec.Spec{
		Format: "v1", File: "backstay.yaml", Release: "shop", Gates: gates,
		Sections: map[string]json.RawMessage{"services": backstay.Canonical(map[string]any{"web": map[string]any{"instances": instances}})},
		Steps: []spec.Step{
			{ID: "conf", Kind: "file", Config: json.RawMessage(`{}`)},
			{ID: "release-1", Kind: spec.ReleaseKind, Needs: []string{"conf"}, Config: backstay.Canonical(spec.ReleaseConfig{Release: keys}), Timeout: backstay.Duration(time.Minute), Line: 9},
			{ID: "after", Kind: "file", Needs: []string{"release-1", "conf"}, Config: json.RawMessage(`{}`)},
		},
	}
}

// asked is what a survey of the draft would see: each kind prepares its own.
func asked(t *testing.T, d *plan.Draft) plan.Observed {
	t.Helper()
	seen := plan.Observed{Steps: map[string]backstay.Prepared{}, Checks: map[string]backstay.Prepared{}, Images: map[string]backstay.Image{}}
	for _, q := range d.Requests() {
		p := backstay.Prepared{
			Kind: q.Kind, Body: q.Config, Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Fenced,
			Restorable: true, HasUndo: true, Timeout: q.Timeout, Summary: q.Kind + " " + string(q.Config), UndoSummary: "put back",
		}
		if q.Check {
			seen.Checks[q.ID] = p
			continue
		}
		switch {
		case q.Kind == "gate":
			var c struct{ Gate backstay.Gate }
			if err := json.Unmarshal(q.Config, &c); err != nil {
				t.Fatal(err)
			}
			var names struct{ Gate struct{ Gates []string } }
			if err := json.Unmarshal(q.Config, &names); err != nil {
				t.Fatal(err)
			}
			p.Gate, p.HasUndo, p.Restorable = &backstay.Gate{Hold: c.Gate.Hold, Within: c.Gate.Hold + backstay.Duration(10*time.Minute), Names: names.Gate.Gates}, false, false
		case q.Kind == "traffic":
			p.Keys = []backstay.Key{"traffic:shop"}
			if strings.Contains(string(q.Config), "weight") {
				p.Dial = p.Keys[0]
			}
		case strings.Contains(string(q.Config), "live"):
			p.Keys = []backstay.Key{"service:web.blue"}
		case q.Kind == "service":
			p.Keys = []backstay.Key{"service:web.green"}
		default:
			p.Keys = []backstay.Key{backstay.Key("file:/" + q.ID)}
		}
		image := backstay.Image{}
		for _, k := range p.Keys {
			image[k] = backstay.PartValue("before")
		}
		seen.Steps[q.ID], seen.Images[q.ID] = p, image
	}
	return seen
}

func TestReleaseExpands(t *testing.T) {
	t.Parallel()
	const second = backstay.Duration(time.Second)
	tests := []struct {
		name      string
		keys      spec.ReleaseKeys
		instances int
		want      []string
		through   []int
	}{
		{
			"canary",
			spec.ReleaseKeys{
				Strategy: spec.Canary, Hold: 30 * second, Gates: []string{"smoke"}, Test: []string{"smoke"},
				Through: []spec.ReleaseStage{{Weight: 1}, {Weight: 10, Hold: 60 * second, Gates: []string{"smoke", "deep"}}, {Weight: 100}},
			},
			2,
			[]string{
				`start service {"service":"web","side":"next"}`,
				`register traffic {"traffic":{"route":"shop","side":"next","service":"web"}}`,
				`test gate {"gate":{"gates":["smoke"]}}`,
				`to-1 traffic {"traffic":{"route":"shop","side":"next","weight":1,"drain":"10s"}}`,
				`gate-1 gate {"gate":{"hold":"30s","gates":["smoke"]}}`,
				`to-10 traffic {"traffic":{"route":"shop","side":"next","weight":10,"drain":"10s"}}`,
				`gate-10 gate {"gate":{"hold":"1m0s","gates":["smoke","deep"]}}`,
				`to-100 traffic {"traffic":{"route":"shop","side":"next","weight":100,"drain":"10s"}}`,
				`retire service {"service":"web","side":"live","retire":true}`,
			},
			[]int{1, 10, 100},
		},
		{
			"blue-green",
			spec.ReleaseKeys{Strategy: spec.BlueGreen, Test: []string{"smoke"}, Hold: 5 * second},
			2,
			[]string{
				`start service {"service":"web","side":"next"}`,
				`register traffic {"traffic":{"route":"shop","side":"next","service":"web"}}`,
				`test gate {"gate":{"gates":["smoke"]}}`,
				`to-100 traffic {"traffic":{"route":"shop","side":"next","weight":100,"drain":"10s"}}`,
				`gate-100 gate {"gate":{"hold":"5s"}}`,
				`retire service {"service":"web","side":"live","retire":true}`,
			},
			[]int{100},
		},
		{
			"rolling",
			spec.ReleaseKeys{Strategy: spec.Rolling, Batch: 2, Gates: []string{"smoke"}},
			5,
			[]string{
				`start-2 service {"service":"web","side":"next","instances":2}`,
				`register-2 traffic {"traffic":{"route":"shop","side":"next","service":"web"}}`,
				`to-40 traffic {"traffic":{"route":"shop","side":"next","weight":40,"drain":"10s"}}`,
				`gate-40 gate {"gate":{"gates":["smoke"]}}`,
				`start-4 service {"service":"web","side":"next","instances":4}`,
				`register-4 traffic {"traffic":{"route":"shop","side":"next","service":"web"}}`,
				`to-80 traffic {"traffic":{"route":"shop","side":"next","weight":80,"drain":"10s"}}`,
				`gate-80 gate {"gate":{"gates":["smoke"]}}`,
				`start-5 service {"service":"web","side":"next"}`,
				`register-5 traffic {"traffic":{"route":"shop","side":"next","service":"web"}}`,
				`to-100 traffic {"traffic":{"route":"shop","side":"next","weight":100,"drain":"10s"}}`,
				`retire service {"service":"web","side":"live","retire":true}`,
			},
			[]int{40, 80, 100},
		},
		{
			"all-at-once",
			spec.ReleaseKeys{Strategy: spec.AllAtOnce},
			1,
			[]string{
				`start service {"service":"web","side":"next"}`,
				`register traffic {"traffic":{"route":"shop","side":"next","service":"web"}}`,
				`to-100 traffic {"traffic":{"route":"shop","side":"next","weight":100,"drain":"10s"}}`,
				`retire service {"service":"web","side":"live","retire":true}`,
			},
			[]int{100},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := plan.NewDraft(released(tt.keys, tt.instances,
				spec.Gate{Name: "deep", Kind: "run", Every: second, Failures: 1, Config: json.RawMessage(`{}`)},
				spec.Gate{Name: "smoke", Kind: "http", For: 3 * second, Every: second, Failures: 2, Config: json.RawMessage(`{}`)},
				spec.Gate{Name: "unused", Kind: "http", Every: second, Failures: 2, Config: json.RawMessage(`{}`)}))
			p, err := plan.Build(d, asked(t, d))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			needs := "conf"
			for _, st := range p.Steps {
				if st.Of == "" {
					continue
				}
				got = append(got, strings.TrimPrefix(st.ID, "release-1.")+" "+st.Kind+" "+string(st.Body))
				if st.Of != "release-1" || len(st.Needs) != 1 || st.Needs[0] != needs {
					t.Errorf("step %s is of %q and needs %v, want %s", st.ID, st.Of, st.Needs, needs)
				}
				needs = st.ID
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			after, _ := p.Step("after")
			if diff := cmp.Diff([]string{"release-1.retire", "conf"}, after.Needs); diff != "" {
				t.Errorf("what comes after needs (-want +got):\n%s", diff)
			}
			want := []plan.Release{{Step: "release-1", Service: "web", Route: "shop", Strategy: tt.name, Through: tt.through}}
			if diff := cmp.Diff(want, p.Releases); diff != "" {
				t.Errorf("releases (-want +got):\n%s", diff)
			}
			for _, q := range d.Requests() {
				if q.ID == "gates.unused" {
					t.Error("a gate that nothing names is prepared")
				}
			}
			if tt.name == "canary" {
				checkCanary(t, p)
			}
		})
	}
}

// checkCanary looks at what the gates of the canary froze, and at the text.
func checkCanary(t *testing.T, p *plan.Plan) {
	t.Helper()
	st, _ := p.Step("release-1.gate-10")
	if st.Gate == nil || st.Gate.Route != "shop" || st.Gate.Weight != 10 || len(st.Gate.Checks) != 2 {
		t.Fatalf("gate %+v", st.Gate)
	}
	if c := st.Gate.Checks[0]; c.Name != "smoke" || c.Kind != "http" || c.Failures != 2 || c.For != backstay.Duration(3*time.Second) {
		t.Errorf("first check %+v", c)
	}
	undo := plan.Preview{Plan: p, Undo: map[string]time.Duration{"release-1.to-1": 2 * time.Second, "release-1.to-100": 3 * time.Second, "conf": time.Second}}.UndoTime()
	want := []string{"release-1.start", "release-1.register", "release-1.retire", "after"}
	if diff := cmp.Diff(want, undo.Unmeasured); diff != "" || undo.Measured != 4*time.Second {
		t.Errorf("the way back is measured as %s: a dial counts once; unmeasured (-want +got):\n%s", undo.Measured, diff)
	}
	var text strings.Builder
	if err := (plan.Preview{Plan: p}).WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "canary.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	told, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(told), text.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

func TestReleaseRefusals(t *testing.T) {
	t.Parallel()
	const second = backstay.Duration(time.Second)
	smoke := spec.Gate{Name: "smoke", Kind: "http", For: 20 * 60 * second, Every: second, Failures: 1, Config: json.RawMessage(`{}`)}
	tests := []struct {
		name  string
		spoil func(*spec.Spec)
		want  string
	}{
		{"a step has the name of one that it became", func(s *spec.Spec) { s.Steps[2].ID = "release-1.start" }, "is the name of a step that a release step became"},
		{"a gate that nobody declared", func(s *spec.Spec) { s.Gates = nil }, `no gate is named "smoke"`},
		{"a check that cannot pass in time", func(*spec.Spec) {}, "must pass for 20m0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := released(spec.ReleaseKeys{Strategy: spec.AllAtOnce, Gates: []string{"smoke"}}, 1, smoke)
			tt.spoil(s)
			d := plan.NewDraft(s)
			_, err := plan.Build(d, asked(t, d))
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a refusal with %q", err, tt.want)
			}
		})
	}
}

// TestRevertInStages: the old side is warmed first, then gets its shares, and
// the last move is the whole way back.
func TestRevertInStages(t *testing.T) {
	t.Parallel()
	const second = backstay.Duration(time.Second)
	d := plan.NewDraft(released(spec.ReleaseKeys{
		Strategy: spec.Canary, Hold: second, Gates: []string{"smoke"}, Through: []spec.ReleaseStage{{Weight: 10}, {Weight: 100}},
	}, 2, spec.Gate{Name: "smoke", Kind: "http", Every: second, Failures: 2, Config: json.RawMessage(`{}`)}))
	old, err := plan.Build(d, asked(t, d))
	if err != nil {
		t.Fatal(err)
	}
	at := func(v string) backstay.Image { return backstay.Image{"traffic:shop": backstay.PartValue(v)} }
	done := []plan.Done{
		{Step: "release-1.to-10", Before: at("0"), After: at("10"), Now: at("100")},
		{Step: "release-1.to-100", Before: at("10"), After: at("100"), Now: at("100")},
	}
	for id, key := range map[string]backstay.Key{"release-1.start": "service:web.green", "release-1.retire": "service:web.blue"} {
		image := backstay.Image{key: backstay.PartValue("x")}
		done = append(done, plan.Done{Step: id, Before: image, After: image, Now: image})
	}
	turned := func(st backstay.Step, percent int) (backstay.Prepared, error) {
		p := st.Prepared
		p.Body = backstay.Canonical(percent)
		p.Want = backstay.Image{p.Dial: backstay.PartValue(percent)}
		return p, nil
	}
	for _, through := range [][]int{{100}, nil} {
		p, err := plan.Revert(old, "id", "shop#1", done)
		if err != nil {
			t.Fatal(err)
		}
		if through != nil {
			if err := plan.Gradual(p, old, through, 0, turned); err == nil || !strings.Contains(err.Error(), "one move") {
				t.Errorf("through %v: got %v", through, err)
			}
			continue
		}
		if diff := cmp.Diff([]string{"revert-release-1.retire", "revert-release-1.to-100", "revert-release-1.start"}, ids(p)); diff != "" {
			t.Errorf("one move (-want +got):\n%s", diff)
		}
	}
	p, err := plan.Revert(old, "id", "shop#1", done)
	if err == nil {
		err = plan.Gradual(p, old, []int{20, 60, 100}, second, turned)
	}
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, st := range p.Steps {
		line := st.ID
		if st.Dial != "" && st.Reverts == nil {
			line += " new side " + string(st.Body)
		}
		if st.Gate != nil {
			line += " " + st.Gate.Hold.String()
		}
		got = append(got, line)
		if i > 0 && (len(st.Needs) != 1 || st.Needs[0] != p.Steps[i-1].ID) || st.Seq != i+1 {
			t.Errorf("step %s has number %d and needs %v", st.ID, st.Seq, st.Needs)
		}
		if st.ID == "revert-release-1.to-100" && (st.Before[st.Dial] != backstay.PartValue(40).Digest() || st.Reverts.From != "") {
			t.Errorf("the whole way back begins with %q, from %q", st.Before[st.Dial], st.Reverts.From)
		}
	}
	want := []string{
		"revert-release-1.retire", "revert-release-1.back-20 new side 80", "revert-release-1.gate-20 1s",
		"revert-release-1.back-60 new side 40", "revert-release-1.gate-60 1s", "revert-release-1.to-100", "revert-release-1.start",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("staged (-want +got):\n%s", diff)
	}
}
