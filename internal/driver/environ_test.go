package driver

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

func TestRefuseVariable(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{
		"A": false, "_x9": false, "GIT_SSH_COMMAND": false,
		"": true, "9A": true, "A-B": true, "A=B": true, "LD_PRELOAD": true, "LD_AUDIT": true, "BASH_ENV": true, "BACKSTAY_X": true,
	} {
		if why, _ := RefuseVariable(name); (why != "") != refused {
			t.Errorf("%q: %q", name, why)
		}
	}
	for value, refused := range map[string]bool{"/bin:/usr/bin": false, "/bin:": true, "bin": true, "/bin::/x": true, "/a\x00b": true} {
		if why := refuseValue("PATH", value); (why != "") != refused {
			t.Errorf("PATH=%q: %q", value, why)
		}
	}
}

// known resolves one reference.
type known string

func (k known) Resolve(ref string) (string, error) {
	if ref != string(k) {
		return "", errors.New("not known")
	}
	return "value", nil
}

func TestCheckEnv(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"A": "plain", "B": "secret:env/B", "C": "secret:env/B", "D": "secret:env/D", "LD_PRELOAD": "/x", "PATH": "bin",
	}
	problems, references := CheckEnv("service.env", env, known("secret:env/B"))
	var at []string
	for _, p := range problems {
		at = append(at, p.Path)
	}
	if diff := cmp.Diff([]string{"service.env.D", "service.env.LD_PRELOAD", "service.env.PATH"}, at); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	want := []string{"secret:env/B", "secret:env/D"}
	if diff := cmp.Diff(want, references); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
	if problems, _ := CheckEnv("env", map[string]string{"D": "secret:env/D"}, nil); problems != nil {
		t.Errorf("without secrets nothing is resolved: %v", problems)
	}
}

var _ backstay.Secrets = known("")
