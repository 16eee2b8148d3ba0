package drill

import (
	"encoding/json"
	"testing"
)

// TestSelfCheck: each planted lie is found, and nothing else.
func TestSelfCheck(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("without the race detector only: it costs minutes")
	}
	got, err := RunSelfCheck(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if !got.OK {
		t.Errorf("the self-check fails:\n%s", b)
	}
	for _, l := range got.Lies {
		if (l.Lie != "") != (len(l.Faults) > 0) {
			t.Errorf("step %s (lie: %q) was flagged by %v", l.Step, l.Lie, l.Faults)
		}
	}
	if len(got.Clean) > 0 {
		t.Errorf("flagged without a lie: %+v", got.Clean)
	}
}
