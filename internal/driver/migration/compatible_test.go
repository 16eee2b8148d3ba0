package migration_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

func TestCompatible(t *testing.T) {
	t.Parallel()
	l := labs()[0]
	p := l.shared(t)(t)
	dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"))
	ranges := map[string]string{"shop": ">= 2, < 4", "cart": "^1.2 || 3.x"}
	tr := drivertest.NewTrial(t, p.fixture(dir, map[string]any{"compatible": ranges}))
	if diff := cmp.Diff(&backstay.Schema{For: ranges}, tr.Step.Schema); diff != "" {
		t.Errorf("what the plan freezes (-want +got):\n%s", diff)
	}
	if !strings.HasSuffix(tr.Step.Summary, ", then for cart ^1.2 || 3.x, shop >= 2, < 4") {
		t.Errorf("the plan says %q", tr.Step.Summary)
	}
	if tr = drivertest.NewTrial(t, p.fixture(dir, nil)); tr.Step.Schema == nil || tr.Step.Schema.For != nil {
		t.Errorf("without the key: %+v, want a schema that anybody can use", tr.Step.Schema)
	}

	f := p.fixture(dir, map[string]any{"compatible": map[string]string{"a": "two", "b": "", "c": ">= 1", "d": "2 &&"}})
	_, err := f.Kind.Prepare(t.Context(), f.Request)
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	var at []string
	for _, problem := range refused.Problems {
		at = append(at, problem.Path)
	}
	if diff := cmp.Diff([]string{"migrate.compatible.a", "migrate.compatible.b", "migrate.compatible.d"}, at); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
