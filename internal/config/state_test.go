package config_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/config"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestFindState(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const url = "postgres://shop@db/backstay"
	user := func(pairs ...string) config.Host {
		return config.Host{UID: 1000, Home: "/home/ann", Getenv: env(pairs...)}
	}
	tests := []struct {
		name  string
		flags config.Flags
		host  config.Host
		want  config.State
	}{
		{"default of root", config.Flags{}, config.Host{Getenv: env("XDG_STATE_HOME", "/x")}, config.State{Dir: "/var/lib/backstay", DataDir: "/var/lib/backstay/data"}},
		{"default of a user", config.Flags{}, user(), config.State{Dir: "/home/ann/.local/state/backstay", DataDir: "/home/ann/.local/state/backstay/data"}},
		{"XDG directory", config.Flags{}, user("XDG_STATE_HOME", "/x/state"), config.State{Dir: "/x/state/backstay", DataDir: "/x/state/backstay/data"}},
		{"relative XDG directory is ignored", config.Flags{}, user("XDG_STATE_HOME", "x"), config.State{Dir: "/home/ann/.local/state/backstay", DataDir: "/home/ann/.local/state/backstay/data"}},
		{"variable", config.Flags{}, user("BACKSTAY_STATE", "/srv/b"), config.State{Dir: "/srv/b", DataDir: "/srv/b/data"}},
		{"flag before variable", config.Flags{State: "/flag"}, user("BACKSTAY_STATE", "/srv/b"), config.State{Dir: "/flag", DataDir: "/flag/data"}},
		{"relative flag", config.Flags{State: "st"}, user(), config.State{Dir: filepath.Join(here, "st"), DataDir: filepath.Join(here, "st", "data")}},
		{"URL", config.Flags{State: url}, user(), config.State{URL: url, Dir: "/home/ann/.local/state/backstay", DataDir: "/home/ann/.local/state/backstay/data"}},
		{"data directory by variable", config.Flags{State: url}, user("BACKSTAY_DATA_DIR", "/srv/d"), config.State{URL: url, Dir: "/srv/d", DataDir: "/srv/d"}},
		{"data directory by flag", config.Flags{DataDir: "/flag/d"}, user("BACKSTAY_DATA_DIR", "/srv/d"), config.State{Dir: "/home/ann/.local/state/backstay", DataDir: "/flag/d"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := config.FindState(tt.flags, tt.host)
			if err != nil {
				t.Fatal(err)
			}
			fields := func(s config.State) []string { return []string{s.Dir, s.URL, s.DataDir} }
			if diff := cmp.Diff(fields(got), fields(tt.want)); diff != "" {
				t.Errorf("state (-got +want):\n%s", diff)
			}
		})
	}
}

func TestFindStateRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, state, want string
		home              string
	}{
		{"another scheme", "mysql://root:hunter22@h/d", "no ledger can be kept", "/h"},
		{"malformed URL", "postgres://ann:hunter22@ho st:%zz/d", "malformed", "/h"},
		{"URL without a database", "postgres://ann:hunter22@host", "names no database", "/h"},
		{"connection string", "host=db password=hunter22", "connection string", "/h"},
		{"a file", file, "not a directory", "/h"},
		{"a NUL byte", "a\x00b", "NUL", "/h"},
		{"nowhere to live", "", "no home directory", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.FindState(config.Flags{State: tt.state}, config.Host{UID: 5, Home: tt.home, Getenv: env()})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
			if strings.Contains(err.Error()+backstay.HintOf(err), "hunter22") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestStateHidesPasswords(t *testing.T) {
	t.Parallel()
	st, err := config.FindState(config.Flags{State: "postgres://ann:hunter22@db/backstay?sslmode=require&sslpassword=hunter23&PASSWORD=hunter24"},
		config.Host{UID: 5, Home: "/h", Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("open", "state", st)
	text, err := st.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	all := []string{st.Redacted(), st.String(), fmt.Sprintf("%v %+v %#v %s %q", st, st, st, st, st), fmt.Sprintf("%+v", &st), log.String(), string(text)}
	for _, shown := range all {
		if strings.Contains(shown, "hunter2") || !strings.Contains(shown, "ann") || !strings.Contains(shown, "db/backstay") {
			t.Errorf("shown as %s", shown)
		}
	}
	if !strings.Contains(st.Redacted(), "sslmode=require") {
		t.Errorf("redacting lost a setting: %s", st.Redacted())
	}
}
