package plan_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

const shopDB = backstay.Key("database:pg/shop")

// usable is a step that decides the schema of shopDB.
func usable(id string, ranges map[string]string, needs ...string) backstay.Step {
	return backstay.Step{ID: id, Needs: needs, Prepared: backstay.Prepared{
		Kind: "migrate", Class: backstay.Equivalent, Effect: backstay.Idempotent, HasUndo: true,
		Keys: []backstay.Key{shopDB}, Schema: &backstay.Schema{For: ranges},
	}}
}

// serving is a step that brings the version.
func serving(id string, needs ...string) backstay.Step {
	return backstay.Step{ID: id, Needs: needs, Prepared: backstay.Prepared{
		Kind: "service", Class: backstay.Exact, Effect: backstay.Idempotent, HasUndo: true, Keys: []backstay.Key{backstay.Key("service:" + id)},
	}}
}

func planOf(release, version string, steps ...backstay.Step) *plan.Plan {
	for i := range steps {
		steps[i].Seq = i + 1
	}
	return &plan.Plan{Format: plan.Format, Release: release, Version: version, Steps: steps}
}

func inForce(text string) []plan.Range {
	return []plan.Range{{Key: shopDB, For: map[string]string{"shop": text}, Deployment: "shop#7", Step: "schema"}}
}

func lives(versions ...string) map[string][]plan.Live {
	var all []plan.Live
	for _, v := range versions {
		all = append(all, plan.Live{Version: v, Deployment: "shop of " + v})
	}
	return map[string][]plan.Live{"shop": all}
}

func TestIncompatible(t *testing.T) {
	t.Parallel()
	shop := func(text string) map[string]string { return map[string]string{"shop": text} }
	reverting := func(release string, steps ...backstay.Step) *plan.Plan {
		p := planOf(release, "before x", steps...)
		p.Reverts = "an earlier one"
		return p
	}
	back := func(id string) backstay.Step {
		s := usable(id, nil)
		s.Schema, s.Reverts = nil, &backstay.Reverts{Deployment: "an earlier one", Step: "schema"}
		return s
	}
	mitigation := planOf("shop", "mitigation x", serving("web"))
	mitigation.Mitigation = &plan.Mitigation{Name: "x"}
	tests := []struct {
		name  string
		plan  *plan.Plan
		stand plan.Standing
		want  []string // the beginning of each problem, after its path
	}{
		{"in range", planOf("shop", "2.1", serving("web")), plan.Standing{Ranges: inForce(">= 2, < 4")}, nil},
		{"an older version", planOf("shop", "1.9", serving("web")), plan.Standing{Ranges: inForce(">= 2, < 4")}, []string{"version: version 1.9 of shop is outside of >= 2, < 4: that is who can use database:pg/shop since step schema of shop#7"}},
		{"a newer version", planOf("shop", "4.0.0-rc.1", serving("web")), plan.Standing{Ranges: inForce(">= 2, < 4")}, []string{"version: version 4.0.0-rc.1 of shop"}},
		{"ahead of a release in range", planOf("shop", "v2.0.0-rc.1+b7", serving("web")), plan.Standing{Ranges: inForce(">= 2, < 4")}, nil},
		{"another release", planOf("cart", "1", serving("web")), plan.Standing{Ranges: inForce(">= 2, < 4")}, nil},
		{"no number", planOf("shop", "nightly", serving("web")), plan.Standing{Ranges: inForce("*")}, []string{`version: version "nightly" of shop is no number such as 2, 2.1 or 2.1.3`}},
		{"no version", planOf("shop", "", serving("web")), plan.Standing{Ranges: inForce("*")}, []string{"version: shop has no version"}},
		{"no number where no range applies", planOf("shop", "nightly", serving("web")), plan.Standing{Live: lives("1")}, nil},
		{"either of two that stand", planOf("shop", "3", serving("web")), plan.Standing{Ranges: append(inForce(">= 3"), inForce("< 3")...)}, []string{"version: version 3 of shop is outside of < 3"}},
		{"a mitigation has no version", mitigation, plan.Standing{Ranges: inForce(">= 2")}, nil},

		{"expand, then the version", planOf("shop", "2", usable("schema", shop(">= 1, < 3")), serving("web", "schema")), plan.Standing{Ranges: inForce("< 2"), Live: lives("1")}, nil},
		{"expand that the live one cannot use", planOf("shop", "2", usable("schema", shop(">= 2")), serving("web", "schema")), plan.Standing{Ranges: inForce("< 2"), Live: lives("1")}, []string{"schema: version 1 of shop is outside of >= 2, and it is live (shop of 1)"}},
		{"the version, then contract", planOf("shop", "2", serving("web"), usable("schema", shop(">= 2"), "web")), plan.Standing{Ranges: inForce(">= 1"), Live: lives("1")}, nil},
		{"the version onto the schema before", planOf("shop", "2", serving("web"), usable("schema", shop(">= 2"), "web")), plan.Standing{Ranges: inForce("< 2"), Live: lives("1")}, []string{"version: version 2 of shop is outside of < 2"}},
		{"between two parts of the version", planOf("shop", "2", serving("web"), usable("schema", shop(">= 2"), "web"), serving("worker", "schema")), plan.Standing{Live: lives("1")}, []string{"schema: version 1 of shop is outside of >= 2, and it is live"}},
		{"beside the version", planOf("shop", "2", usable("schema", shop(">= 2")), serving("web")), plan.Standing{Live: lives("1")}, []string{"schema: version 1 of shop is outside of >= 2, and it is live"}},
		{"its own version", planOf("shop", "2", usable("schema", shop(">= 1, < 2")), serving("web", "schema")), plan.Standing{Live: lives("1")}, []string{"schema: version 2 of shop is outside of >= 1, < 2: the version of this plan"}},
		{"of another release", planOf("db", "9", usable("schema", shop(">= 2"))), plan.Standing{Live: lives("2.3", "1.9")}, []string{"schema: version 1.9 of shop is outside of >= 2, and it is live"}},
		{"nobody is live", planOf("db", "9", usable("schema", shop(">= 2"))), plan.Standing{}, nil},
		{"the live one has no number", planOf("db", "9", usable("schema", shop(">= 2"))), plan.Standing{Live: lives("x")}, []string{`schema: version "x" of shop is no number`}},
		{"a range that says nothing of it replaces", planOf("shop", "1", usable("schema", nil), serving("web", "schema")), plan.Standing{Ranges: inForce(">= 2")}, nil},

		{"taking a schema back", reverting("db", back("revert-schema")), plan.Standing{Ranges: inForce("< 2"), Live: lives("2")}, []string{"revert-schema: version 2 of shop is outside of < 2, and it would be live"}},
		{"taking a schema back that fits", reverting("db", back("revert-schema")), plan.Standing{Ranges: inForce("< 3"), Live: lives("2")}, nil},
		{"taking a version back", reverting("shop", serving("revert-web")), plan.Standing{Ranges: inForce(">= 2"), Live: lives("1")}, []string{": version 1 of shop is outside of >= 2, and it would be live"}},
		{"taking back what is not named", reverting("cart", serving("revert-web")), plan.Standing{Ranges: inForce(">= 2"), Live: lives("1")}, nil},
	}
	for _, tt := range tests {
		var got []string
		for _, p := range tt.plan.Incompatible(tt.stand) {
			got = append(got, p.Path+": "+p.Message)
			if p.Hint == "" {
				t.Errorf("%s: %q says nothing of what to do next", tt.name, p.Message)
			}
		}
		if len(got) != len(tt.want) || !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

// What Build finds has its place; a schema that the version before cannot use keeps
// what brought the new one from being undone alone.
func TestBuildChecksCompatibility(t *testing.T) {
	t.Parallel()
	build := func(version string, live ...string) (*plan.Plan, error) {
		s := &spec.Spec{Release: "shop", Version: version, Steps: []spec.Step{{ID: "web", Kind: "service"}, {ID: "schema", Kind: "migrate", Needs: []string{"web"}, Line: 7}}}
		web, schema := serving("web").Prepared, usable("schema", map[string]string{"shop": ">= 2, < 4"}).Prepared
		return plan.Build(plan.NewDraft(s), plan.Observed{
			Steps:    map[string]backstay.Prepared{"web": web, "schema": schema},
			Images:   map[string]backstay.Image{"web": {"service:web": {}}, "schema": {shopDB: {}}},
			Standing: plan.Standing{Live: lives(live...)},
		})
	}
	_, err := build("4", "2")
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) || len(refused.Problems) != 1 || refused.Problems[0].Line != 7 {
		t.Errorf("got %v, want one problem at line 7", err)
	}
	for _, tt := range []struct{ live, want []string }{{[]string{"1.4"}, []string{"1.4"}}, {[]string{"2", "3"}, nil}, {nil, nil}} {
		p, err := build("3", tt.live...)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := p.Step("schema")
		if diff := cmp.Diff(tt.want, s.Excludes); diff != "" {
			t.Errorf("live %v: excludes (-want +got):\n%s", tt.live, diff)
		}
		if got := p.ExcludesAfter("web"); got != (tt.want != nil) {
			t.Errorf("live %v: web goes back under a schema that excludes it: %v", tt.live, got)
		}
	}
}
