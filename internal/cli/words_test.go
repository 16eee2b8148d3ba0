package cli

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func TestReleaseName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"./deploy.sh": "deploy", "/opt/Shop_Deploy.py": "shop-deploy", "deploy": "deploy", "./2fast": "wrap-2fast",
		".sh": "sh", "./$$$": "wrap", "/usr/bin/env": "env", "./.hidden": "hidden", "./日本": "wrap",
	} {
		if got := releaseName(in); got != want {
			t.Errorf("releaseName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestQuoted(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/var/lib/backstay": "/var/lib/backstay", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'",
	} {
		if got := quoted(in); got != want {
			t.Errorf("quoted(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	c := newCall(&App{Now: func() time.Time { return now }})
	for in, want := range map[string]time.Time{
		"":                     {},
		"2h":                   now.Add(-2 * time.Hour),
		"14d":                  now.Add(-14 * 24 * time.Hour),
		"2026-11-20T10:00:00Z": time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC),
		"2026-11-20":           time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local),
	} {
		got, err := c.moment("--since", in)
		if err != nil || !got.Equal(want) {
			t.Errorf("moment(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"yesterday", "-2h", "5", "2026-13-01"} {
		if _, err := c.moment("--since", in); exitCodeOf(err) != exitFailed || err == nil {
			t.Errorf("moment(%q): error %v, want a usage error", in, err)
		}
	}
}

func TestInEffect(t *testing.T) {
	t.Parallel()
	dep := func(id string, state backstay.State, reverts string) ledger.Deployment {
		return ledger.Deployment{ID: id, State: state, Reverts: reverts}
	}
	for _, tt := range []struct {
		name string
		deps []ledger.Deployment // newest first
		want []string
	}{
		{"none", nil, nil},
		{"plain", []ledger.Deployment{dep("2", backstay.Proven, ""), dep("1", backstay.Proven, "")}, []string{"2", "1"}},
		{"taken back", []ledger.Deployment{dep("r", backstay.Proven, "2"), dep("2", backstay.Proven, ""), dep("1", backstay.Proven, "")}, []string{"r", "1"}},
		{
			"the taking back was taken back",
			[]ledger.Deployment{dep("rr", backstay.Proven, "r"), dep("r", backstay.Proven, "2"), dep("2", backstay.Proven, "")},
			[]string{"rr", "2"},
		},
		{"the taking back failed", []ledger.Deployment{dep("r", backstay.RolledBack, "2"), dep("2", backstay.Proven, "")}, []string{"2"}},
		{"not committed", []ledger.Deployment{dep("2", backstay.Running, ""), dep("1", backstay.Committed, "")}, []string{"1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, d := range inEffect(tt.deps) {
				got = append(got, d.ID)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("in effect (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAbsoluteSecrets(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"b":1,"a":"secret:file/run/x"}`:                `{"a":"secret:file//srv/run/x","b":1}`,
		`["secret:file//run/x", "secret:env/X"]`:         `["secret:file//run/x","secret:env/X"]`,
		`{"n":12345678901234567890,"s":"secret:file/x"}`: `{"n":12345678901234567890,"s":"secret:file//srv/x"}`,
		`{ "untouched" : true }`:                         `{ "untouched" : true }`,
	} {
		if got := absoluteSecrets(json.RawMessage(in), "/srv"); string(got) != want {
			t.Errorf("absoluteSecrets(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestEveryCauseAndStateIsExplained(t *testing.T) {
	t.Parallel()
	c := newCall(&App{})
	for _, cause := range []backstay.Cause{
		backstay.CauseNoUndo, backstay.CauseUndoFailed, backstay.CauseDrift, backstay.CauseAmbiguous, backstay.CauseUnreachable,
		backstay.CauseDeadline, backstay.CauseIncompatible, backstay.CauseLedgerDamage, backstay.CauseStepFailed, backstay.CauseVerifyFailed,
		backstay.CauseBakeFailed, backstay.CauseGateFailed, backstay.CauseAborted, backstay.CauseSignalled, backstay.CauseBudget, backstay.CauseNotApproved, backstay.CauseCrashed,
	} {
		if e, ok := c.explainWord(string(cause)); !ok || e.Next == "" {
			t.Errorf("cause %s is not explained", cause)
		}
	}
	for _, word := range []string{"transient", "persistent", "systemic", "permanent", "not_found", "conflict"} {
		if e, ok := c.explainWord(word); !ok || e.Next == "" || len(e.Leads) == 0 || len(e.Undo) == 0 || len(e.Ask) == 0 {
			t.Errorf("failure %s is not explained: %+v", word, e)
		}
	}
	for _, m := range backstay.Causes() {
		if len(m.Leads) == 0 || m.Meaning == "" {
			t.Errorf("cause %s leads to nothing", m.Cause)
		}
	}
	for _, s := range states() {
		if e, ok := c.explainWord(string(s)); !ok || e.Next == "" {
			t.Errorf("state %s is not explained", s)
		}
	}
}

func TestStartOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, stat string
		want       int64
		ok         bool
	}{
		{"plain", "7 (backstay) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 2 3", 12345, true},
		{"a name that looks like fields", "7 (a) S 1) 9 (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 2 3", 777, true},
		{"cut", "7 (backstay) S 1 7", 0, false},
		{"empty", "", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, ok := startOf([]byte(tt.stat)); got != tt.want || ok != tt.ok {
				t.Errorf("startOf = %d, %v, want %d, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestGoneIsOnlySaidOfThisHostsDeadProcesses(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		owner ledger.Owner
		want  bool
	}{
		{"this process", ledger.Owner{PID: os.Getpid(), Host: host, Live: true}, false},
		{"its pid, another start", ledger.Owner{PID: os.Getpid(), Start: 1, Host: host, Live: true}, true},
		{"no such process", ledger.Owner{PID: 1 << 30, Host: host, Live: true}, true},
		{"of another host", ledger.Owner{PID: 1 << 30, Host: host + "-other", Live: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := gone(&tt.owner); got != tt.want {
				t.Errorf("gone = %v, want %v", got, tt.want)
			}
		})
	}
}
