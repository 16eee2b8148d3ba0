package config

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// Names of the key's files in the state directory.
const (
	KeyFile    = "audit.key"
	PublicFile = "audit.pub"
)

const (
	keyWait   = 10 * time.Second      // for another process that creates the key
	keyPoll   = 10 * time.Millisecond // between looks for it
	maxKey    = 4 << 10
	keyFields = 5 // PRIVATE+KEY+name+hash+base64
)

// Key is the Ed25519 key that signs this host's audit checkpoints, in the
// format of golang.org/x/mod/sumdb/note.
type Key struct {
	// Name is the key's name: "backstay-audit/" and the host that made it.
	Name string
	// Public is the verifier key, one line: what an auditor keeps.
	Public string
	// Secret is the signer key.
	Secret Value
}

// LoadOrCreateKey reads audit.key (mode 0600) in dir, or creates it and
// audit.pub (mode 0644) beside it. Of several processes that create it at once
// all return the same key. A key file that others may read or write, or that
// belongs to another user than this one or root, is refused.
func LoadOrCreateKey(dir string) (Key, error) {
	deadline := time.NewTimer(keyWait)
	defer deadline.Stop()
	poll := time.NewTicker(keyPoll)
	defer poll.Stop()
	for {
		key, err := loadKey(dir)
		if errors.Is(err, fs.ErrNotExist) {
			key, err = createKey(dir)
		}
		if !errors.Is(err, durable.ErrBusy) {
			return key, err
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return Key{}, fmt.Errorf("create audit key: after %s: %w", keyWait, err)
		}
	}
}

// createKey makes the key unless another process was quicker. The pending
// content of the file is the lock: it has one owner at a time.
func createKey(dir string) (key Key, err error) {
	// Others pass through to the control socket below; the key is 0600.
	if err := durable.MkdirAll(dir, 0o711); err != nil {
		return Key{}, fmt.Errorf("create audit key: %w", err)
	}
	d, err := openDir(dir)
	if err != nil {
		return Key{}, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	pending, err := d.Create(KeyFile)
	if err != nil {
		return Key{}, fmt.Errorf("create audit key: %w", err)
	}
	defer func() { err = errors.Join(err, pending.Abort()) }()
	if key, err = loadKey(dir); !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	host, err := os.Hostname()
	if err != nil {
		return Key{}, fmt.Errorf("read host name: %w", err)
	}
	secret, public, err := note.GenerateKey(rand.Reader, keyName(host))
	if err != nil {
		return Key{}, fmt.Errorf("generate audit key: %w", err)
	}
	if _, err := pending.Write([]byte(secret + "\n")); err != nil {
		return Key{}, fmt.Errorf("write audit key: %w", err)
	}
	if err := pending.Commit(); err != nil {
		return Key{}, fmt.Errorf("write audit key: %w", err)
	}
	// Writing the public half syncs the directory, and the key's name with it.
	return Key{Name: keyName(host), Public: public, Secret: NewValue(secret)}, writePublic(dir, public)
}

// openDir opens the directory as the operating system finds it: the state
// directory is the user's own, and may be reached through a symlink.
func openDir(dir string) (*durable.Dir, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, fmt.Errorf("create audit key: %w", err)
	}
	return durable.OpenDir(real)
}

// loadKey reads the key and sees to it that its public half is beside it. The
// error wraps fs.ErrNotExist where there is no key.
func loadKey(dir string) (Key, error) {
	path := filepath.Join(dir, KeyFile)
	data, err := readPrivate(path)
	if err != nil {
		return Key{}, err
	}
	key, err := parseKey(strings.TrimSpace(string(data)))
	if err != nil {
		// The cause could quote the key.
		return Key{}, &backstay.Error{
			Class: backstay.Permanent, Op: "read audit key", Subject: path, Err: errors.New("it is not a signing key"),
			Hint: "restore it from a copy; if there is none, move it away: a new key is made, and checkpoints of the old one are checked with the old audit.pub",
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, PublicFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A crash between the two files, or a copy of one of them.
		return key, writePublic(dir, key.Public)
	case err != nil:
		return Key{}, fmt.Errorf("read public audit key: %w", err)
	case string(bytes.TrimSpace(public)) != key.Public:
		return Key{}, &backstay.Error{
			Class: backstay.Conflict, Op: "read audit key", Subject: filepath.Join(dir, PublicFile),
			Err: errors.New("it is not the public half of " + KeyFile), Hint: "find out who changed it; removing it makes it anew from " + KeyFile,
		}
	}
	return key, nil
}

func writePublic(dir, public string) error {
	if err := durable.WriteFile(filepath.Join(dir, PublicFile), strings.NewReader(public+"\n"), durable.Attr{Mode: 0o644}); err != nil {
		return fmt.Errorf("write public audit key: %w", err)
	}
	return nil
}

// readPrivate reads a small file that only this user (or root) can read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read audit key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read audit key: %w", err)
	}
	refuse := func(why, hint string) error {
		return &backstay.Error{Class: backstay.Permanent, Op: "read audit key", Subject: path, Err: errors.New(why), Hint: hint}
	}
	owner := ownerOf(info)
	switch {
	case !info.Mode().IsRegular():
		return nil, refuse("it is not a regular file", "")
	case info.Mode().Perm()&0o077 != 0:
		return nil, refuse(fmt.Sprintf("others can use it (mode %04o)", info.Mode().Perm()), "if nobody copied it: chmod 600 "+path)
	case owner != 0 && owner != os.Getuid():
		return nil, refuse(fmt.Sprintf("it belongs to uid %d", owner), "run backstay as its owner, or give it another --state")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, fmt.Errorf("read audit key: %w", err)
	}
	return data, nil
}

// parseKey reads a signer key and computes its public half.
func parseKey(secret string) (Key, error) {
	if _, err := note.NewSigner(secret); err != nil {
		return Key{}, err
	}
	fields := strings.SplitN(secret, "+", keyFields)
	raw, err := base64.StdEncoding.DecodeString(fields[keyFields-1])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return Key{}, errors.New("malformed key")
	}
	public, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return Key{}, errors.New("malformed key")
	}
	name := fields[2]
	verifier, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return Key{}, err
	}
	return Key{Name: name, Public: verifier, Secret: NewValue(secret)}, nil
}

// ReadPublicKeys reads verifier keys, one per line; empty lines and lines that
// begin with # are passed over. It is for the key that an auditor kept.
func ReadPublicKeys(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read public audit key: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	if err != nil {
		return nil, fmt.Errorf("read public audit key: %w", err)
	}
	var keys []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if _, err := note.NewVerifier(line); err != nil {
			return nil, &backstay.Error{
				Class: backstay.Permanent, Op: "read public audit key", Subject: path, Err: errors.New("it holds a line that is not a public key"),
				Hint: "give the file " + PublicFile + " of the state directory",
			}
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 {
		return nil, &backstay.Error{Class: backstay.NotFound, Op: "read public audit key", Subject: path, Err: errors.New("it holds no key")}
	}
	return keys, nil
}

// keyName is a name that the note format can hold: no space and no plus.
func keyName(host string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
			return r
		}
		return '-'
	}, host)
	return "backstay-audit/" + clean
}

// ownerOf is the uid that a file belongs to; -1 where the system does not say.
func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
