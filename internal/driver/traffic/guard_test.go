package traffic_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
)

// A router that does not answer is left alone by those who go forward; who looks or
// goes back asks it all the same.
func TestDeadRouterIsSpared(t *testing.T) {
	t.Parallel()
	k := traffic.New()
	p, err := k.Prepare(t.Context(), backstay.Request{
		ID: "1", Dir: t.TempDir(), DataDir: t.TempDir(), Config: json.RawMessage(`{"traffic": {"route": "shop", "to": {"a": 100}}}`),
		Sections: map[string]json.RawMessage{"routes": json.RawMessage(`{"shop": {"proxy": {"socket": "nobody.sock"}}}`)},
	})
	must(t, err)
	call := backstay.Call{Step: backstay.Step{ID: "1", Prepared: p}}
	const before = 5
	for i := range before + 1 {
		_, err := k.Do(t.Context(), call)
		if spared := err != nil && strings.Contains(err.Error(), "is left alone for"); spared != (i == before) || backstay.ClassOf(err) != backstay.Transient {
			t.Errorf("try %d: %v", i+1, err)
		}
	}
	if _, err := k.Undo(t.Context(), call); err == nil || strings.Contains(err.Error(), "left alone") {
		t.Errorf("going back: %v", err)
	}
	image, err := k.Observe(t.Context(), call)
	must(t, err)
	for key, state := range image {
		if state.Unreadable == "" || strings.Contains(state.Unreadable, "left alone") {
			t.Errorf("%s reads as %+v", key, state)
		}
	}
}
