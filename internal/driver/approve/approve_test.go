package approve

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

func request(config map[string]any) backstay.Request {
	return backstay.Request{ID: "approve-1", Config: backstay.Canonical(map[string]any{"approve": config})}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, drivertest.Suite{New: func(t *testing.T) drivertest.Fixture {
		t.Helper()
		return drivertest.Fixture{
			Kind: New(), Request: request(map[string]any{"from": []string{"sre"}}),
			World: func(testing.TB) map[string]string { return map[string]string{} },
		}
	}})
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config map[string]any
		want   backstay.Hold
	}{
		{"defaults", map[string]any{}, backstay.Hold{Count: 1, Within: backstay.Duration(24 * time.Hour)}},
		{"all keys", map[string]any{"from": []string{"sre", "user:eve"}, "count": 2, "within": "2h", "not-author": true}, backstay.Hold{
			From: []string{"sre", "user:eve"}, Count: 2, Within: backstay.Duration(2 * time.Hour), NotAuthor: true,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := New().Prepare(t.Context(), request(tt.config))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, p.Hold); diff != "" {
				t.Errorf("hold (-want +got):\n%s", diff)
			}
			if len(p.Keys) > 0 || p.HasUndo {
				t.Errorf("it has keys %v, undo %v", p.Keys, p.HasUndo)
			}
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config map[string]any
		path   string
	}{
		{"negative count", map[string]any{"count": -1}, "approve.count"},
		{"large count", map[string]any{"count": 1000}, "approve.count"},
		{"blank group", map[string]any{"from": []string{""}}, "approve.from[0]"},
		{"blank user", map[string]any{"from": []string{"sre", "user:"}}, "approve.from[1]"},
		{"forged line", map[string]any{"from": []string{"sre\nroot"}}, "approve.from[0]"},
		{"twice", map[string]any{"from": []string{"sre", "sre"}}, "approve.from[1]"},
		{"more than there are", map[string]any{"from": []string{"user:eve"}, "count": 2}, "approve.count"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := New().Prepare(t.Context(), request(tt.config))
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || len(refused.Problems) != 1 || refused.Problems[0].Path != tt.path {
				t.Errorf("error %v, want one problem at %s", strings.TrimSpace(drivertest.Explain(err)), tt.path)
			}
		})
	}
}
