package spec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// TestInputsInScripts is HOSTILE's command injection: a value that a shell
// would not take as one plain word is refused in a script, and only there.
func TestInputsInScripts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, run, value string
		refused          bool
	}{
		{"plain word in a script", "echo ${X}", "v1.2.3-rc/4", false},
		{"command substitution", "echo ${X}", "$(touch pwned)", true},
		{"backquotes", "echo ${X}", "`id`", true},
		{"separator", "echo ${X}", "a;reboot", true},
		{"space", "echo ${X}", "a b", true},
		{"quote", "echo '${X}'", "it's", true},
		{"empty", "echo ${X}", "", true},
		{"in a list no shell sees it", "[echo, '${X}']", "$(touch pwned)", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			text := "backstay: v1\nrelease: r\nversion: '1'\nsteps:\n  - run: " + tc.run + "\n    undo: 'true'\n"
			_, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text)}, nil, spec.Source{Set: map[string]string{"X": tc.value}}, fakeKinds{})
			var refused *backstay.RefusedError
			if !tc.refused {
				if err != nil {
					t.Fatalf("got %v, want none", err)
				}
				return
			}
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal", err)
			}
			for _, p := range refused.Problems {
				if strings.Contains(p.Message, "mean something to a shell") && p.Line == 5 && strings.Contains(p.Hint, "env:") {
					return
				}
			}
			t.Errorf("no problem names the shell: %+v", refused.Problems)
		})
	}
}
