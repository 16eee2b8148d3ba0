package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/config"
)

const canary = "c4nary-s3cret"

func secrets(t *testing.T, dir string) *config.Secrets {
	t.Helper()
	s, err := config.NewSecrets(dir, func(name string) (string, bool) {
		v, ok := map[string]string{"PW": canary, "EMPTY": ""}[name]
		return v, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// spread makes a directory with secrets that a test resolves.
func spread(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	// Whether others can search the directories above is the point of some
	// cases, so those of the test are made so.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("pw", canary+"\n", 0o600)
	write("two", canary+"\n\n", 0o640)
	write("dos", canary+"\r\n", 0o600)
	write("bare", canary, 0o600)
	write("empty", "\n", 0o600)
	write("open", canary, 0o604)
	write("closed/open", canary, 0o644)
	write("large", strings.Repeat("x", 1<<20+1), 0o600)
	if err := os.Chmod(filepath.Join(dir, "closed"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("pw", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("open", filepath.Join(dir, "link-open")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestResolve(t *testing.T) {
	t.Parallel()
	dir := spread(t)
	tests := []struct{ name, ref, want string }{
		{"environment", "secret:env/PW", canary},
		{"relative file", "secret:file/pw", canary},
		{"absolute file", "secret:file/" + dir + "/pw", canary},
		{"only one newline is cut", "secret:file/two", canary + "\n"},
		{"one newline of another system", "secret:file/dos", canary},
		{"no newline", "secret:file/bare", canary},
		{"through a symlink", "secret:file/link", canary},
		{"readable by others, behind a directory that is not", "secret:file/closed/open", canary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := secrets(t, dir).Resolve(tt.ref)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	dir := spread(t)
	tests := []struct {
		name, ref, want string
		class           backstay.ErrorClass
	}{
		{"not set", "secret:env/NONE", "not set", backstay.NotFound},
		{"set but empty", "secret:env/EMPTY", "empty", backstay.NotFound},
		{"no name", "secret:env/", "names no environment variable", backstay.Permanent},
		{"no path", "secret:file//", "names no file", backstay.Permanent},
		{"NUL in a path", "secret:file/a\x00b", "names no file", backstay.Permanent},
		{"missing file", "secret:file/none", "no such file", backstay.NotFound},
		{"empty file", "secret:file/empty", "empty", backstay.NotFound},
		{"too large", "secret:file/large", "larger than", backstay.Permanent},
		{"directory", "secret:file/closed", "not a regular file", backstay.Permanent},
		{"FIFO without a writer", "secret:file/fifo", "not a regular file", backstay.Permanent},
		{"readable by everybody", "secret:file/open", "everybody on this host can read", backstay.Permanent},
		{"symlink to what everybody reads", "secret:file/link-open", "everybody on this host can read", backstay.Permanent},
		{"unknown provider", "secret:vault/shop", `no secret provider "vault"`, backstay.Permanent},
		{"the value itself", canary, "is not a secret reference", backstay.Permanent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := secrets(t, dir).Resolve(tt.ref)
			if err == nil || got != "" || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %q, %v; want an error with %q", got, err, tt.want)
			}
			if got := backstay.ClassOf(err); got != tt.class {
				t.Errorf("class: got %s, want %s", got, tt.class)
			}
			var e *backstay.Error
			if !errors.As(err, &e) || e.Op != "resolve secret" {
				t.Errorf("got %#v, want a *backstay.Error of resolving", err)
			}
			if strings.Contains(err.Error()+e.Hint, canary) {
				t.Errorf("the error shows the value: %v", err)
			}
		})
	}
}

func TestNewSecretsNeedsAPlace(t *testing.T) {
	t.Parallel()
	if _, err := config.NewSecrets("spec", os.LookupEnv); err == nil {
		t.Error("a relative directory was accepted")
	}
	if _, err := config.NewSecrets("/spec", nil); err == nil {
		t.Error("no environment was accepted")
	}
}

func TestValueIsNeverShown(t *testing.T) {
	t.Parallel()
	v := config.NewValue(canary)
	holder := struct {
		V config.Value
		P *config.Value
	}{v, &v}
	data, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	keyed, err := json.Marshal(map[config.Value]int{v: 1})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v, "holder", holder)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v, "holder", holder)
	shown := []string{string(data), string(keyed), log.String(), v.String(), v.GoString(), fmt.Errorf("wrap: %w", fmt.Errorf("%v", v)).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, v), fmt.Sprintf(verb, holder), fmt.Sprintf(verb, &v))
	}
	for _, s := range shown {
		if strings.Contains(s, canary) || strings.Contains(s, fmt.Sprintf("%x", canary)) {
			t.Errorf("shown: %s", s)
		}
	}
	if v.Reveal() != canary {
		t.Errorf("Reveal: got %q, want %q", v.Reveal(), canary)
	}
}

func FuzzResolve(f *testing.F) {
	for _, ref := range []string{"secret:env/PW", "secret:file/pw", "secret:file//", "secret:", "secret:file/../../..", "x", "secret:env/A=B", "secret:file/\x00"} {
		f.Add(ref)
	}
	dir := f.TempDir()
	s, err := config.NewSecrets(dir, func(string) (string, bool) { return "", false })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		if strings.HasPrefix(ref, "secret:file/") && (strings.HasPrefix(ref, "secret:file//") || strings.Contains(ref, "..")) {
			t.Skip("outside the directory of this test")
		}
		if v, err := s.Resolve(ref); err == nil {
			t.Errorf("resolved %q to %q in an empty world", ref, v)
		}
	})
}
