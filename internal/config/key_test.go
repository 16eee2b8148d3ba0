package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/backstay-dev/backstay/internal/config"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestKeyIsCreatedOnFirstUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "state")
	key, err := config.LoadOrCreateKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := mode(t, filepath.Join(dir, config.KeyFile)); got != 0o600 {
		t.Errorf("mode of the key: got %o, want 600", got)
	}
	if got := mode(t, filepath.Join(dir, config.PublicFile)); got != 0o644 {
		t.Errorf("mode of the public key: got %o, want 644", got)
	}
	if got := mode(t, dir); got != 0o711 {
		t.Errorf("mode of the directory: got %o, want 711", got)
	}
	if !strings.HasPrefix(key.Name, "backstay-audit/") {
		t.Errorf("name: got %q", key.Name)
	}
	signs(t, key)

	again, err := config.LoadOrCreateKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.Public != key.Public || again.Secret.Reveal() != key.Secret.Reveal() || again.Name != key.Name {
		t.Error("the second use got another key")
	}
	public, err := config.ReadPublicKeys(filepath.Join(dir, config.PublicFile))
	if err != nil || len(public) != 1 || public[0] != key.Public {
		t.Errorf("public keys: got %v, %v; want %s", public, err, key.Public)
	}
	if shown := fmt.Sprintf("%+v %#v", key, key); strings.Contains(shown, "PRIVATE") {
		t.Errorf("the key shows itself: %s", shown)
	}
}

// signs checks that the halves belong together.
func signs(t *testing.T, key config.Key) {
	t.Helper()
	signer, err := note.NewSigner(key.Secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(key.Public)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := note.Sign(&note.Note{Text: "hello\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(msg, note.VerifierList(verifier)); err != nil {
		t.Errorf("the public half does not verify: %v", err)
	}
}

func TestKeyIsCreatedOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const rivals = 8
	keys := make([]config.Key, rivals)
	errs := make([]error, rivals)
	var all sync.WaitGroup
	for i := range rivals {
		all.Go(func() { keys[i], errs[i] = config.LoadOrCreateKey(dir) })
	}
	all.Wait()
	for i := range rivals {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if keys[i].Public != keys[0].Public {
			t.Errorf("rival %d got another key", i)
		}
	}
	signs(t, keys[0])
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left in the directory: %v, %v; want the two files of the key", left, err)
	}
}

func TestPublicHalfIsMadeAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := config.LoadOrCreateKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, config.PublicFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := config.LoadOrCreateKey(dir); err != nil {
		t.Fatal(err)
	}
	public, err := config.ReadPublicKeys(filepath.Join(dir, config.PublicFile))
	if err != nil || public[0] != key.Public {
		t.Errorf("got %v, %v; want %s", public, err, key.Public)
	}
}

func TestKeyRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"readable by the group", func(dir string) error { return os.Chmod(filepath.Join(dir, config.KeyFile), 0o640) }, "others can use it"},
		{"readable by all", func(dir string) error { return os.Chmod(filepath.Join(dir, config.KeyFile), 0o604) }, "others can use it"},
		{"garbage", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, config.KeyFile), []byte("PRIVATE+KEY+c4nary-s3cret"), 0o600)
		}, "not a signing key"},
		{"empty, as after a full disk", func(dir string) error { return os.Truncate(filepath.Join(dir, config.KeyFile), 0) }, "not a signing key"},
		{"a symlink", func(dir string) error {
			path := filepath.Join(dir, config.KeyFile)
			if err := os.Rename(path, path+".real"); err != nil {
				return err
			}
			return os.Symlink(path+".real", path)
		}, "symbolic links"},
		{"a directory", func(dir string) error {
			path := filepath.Join(dir, config.KeyFile)
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		}, "not a regular file"},
		{"another public half", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, config.PublicFile), []byte("x+00000000+AAAA\n"), 0o600)
		}, "not the public half"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if _, err := config.LoadOrCreateKey(dir); err != nil {
				t.Fatal(err)
			}
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := config.LoadOrCreateKey(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "c4nary") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestReadPublicKeysRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"empty": "# nothing\n\n", "no key": "hello\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "pub")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if keys, err := config.ReadPublicKeys(path); err == nil {
				t.Errorf("read %v", keys)
			}
		})
	}
}
