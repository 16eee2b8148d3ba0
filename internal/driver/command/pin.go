package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// pin is the script file that a line's first word names, as it was when the
// plan was made. The file itself is run as long as it is still that; else the
// pinned copy is: a plan runs what was planned, and a rollback needs no checkout.
type pin struct {
	Word   string `json:"word"` // as written
	Path   string `json:"path"` // absolute
	Digest string `json:"sha256"`
}

// maxScript bounds what is pinned for one line.
const maxScript = 256 << 20

// firstWord returns the word by which a line names a program, where that is
// a relative path written without any of the shell's special characters.
func firstWord(l Line) (string, bool) {
	word := ""
	if l.Argv != nil {
		if len(l.Argv) > 0 {
			word = l.Argv[0]
		}
	} else {
		end := strings.IndexFunc(l.Shell, func(r rune) bool { return !plainRune(r) })
		if end < 0 {
			end = len(l.Shell)
		}
		if rest := l.Shell[end:]; rest != "" && !strings.ContainsRune(" \t\r\n;&|<>)", rune(rest[0])) {
			return "", false // the word goes on with something that the shell expands
		}
		word = l.Shell[:end]
	}
	return word, strings.Contains(word, "/") && !strings.HasPrefix(word, "/")
}

func plainRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._/@%+:,-", r)
}

// newPin pins the script of a line that runs in dir, if it has one below base.
// The warning says why a script that is there is not pinned.
func newPin(l Line, base, dir string, blobs backstay.Blobs) (p *pin, warning string, err error) {
	word, ok := firstWord(l)
	if !ok {
		return nil, "", nil
	}
	path := filepath.Join(dir, word)
	rel, err := filepath.Rel(base, path)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, "", nil //nolint:nilerr // elsewhere on the host: not the release's to pin
	}
	f, err := os.OpenInRoot(base, rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil // perhaps an earlier step makes it
	}
	if err != nil {
		return nil, fmt.Sprintf("%s is not pinned: the path leads out of the specification's directory", word), nil
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, "", fmt.Errorf("read script: %w", err)
	}
	switch {
	case !st.Mode().IsRegular():
		return nil, "", nil
	case st.Mode()&0o111 == 0:
		return nil, "", &backstay.Error{Err: fmt.Errorf("%s is not executable", word), Hint: "chmod +x " + word}
	case st.Size() > maxScript:
		return nil, "", &backstay.Error{
			Err:  fmt.Errorf("%s is larger than %d MiB", word, maxScript>>20),
			Hint: "ship it as an artifact, or name it by an absolute path",
		}
	}
	digest, _, err := blobs.Put(io.LimitReader(f, maxScript))
	if err != nil {
		return nil, "", fmt.Errorf("pin script %s: %w", word, err)
	}
	return &pin{Word: word, Path: path, Digest: digest}, "", nil
}

// resolve returns the line as it is to be run now: unchanged while the script
// is as pinned, else with the private copy in its place.
func (l line) resolve(ctx context.Context, call backstay.Call) (argv []string, err error) {
	word, program := "", ""
	if l.Pin != nil && !l.Pin.unchanged(ctx) {
		copied, err := l.Pin.materialise(ctx, call)
		if err != nil {
			return nil, fmt.Errorf("restore pinned script %s: %w", l.Pin.Word, err)
		}
		word, program = l.Pin.Word, copied
	}
	if l.Line.Argv != nil {
		argv = append(argv, l.Line.Argv...)
		if word != "" {
			argv[0] = program
		}
		return argv, nil
	}
	script := l.Line.Shell
	if word != "" {
		script = "'" + strings.ReplaceAll(program, "'", `'\''`) + "'" + strings.TrimPrefix(script, word)
	}
	return []string{"/bin/sh", "-euc", script}, nil
}

func (p *pin) unchanged(ctx context.Context) bool {
	f, err := os.Open(p.Path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return false
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil || ctx.Err() != nil {
		return false
	}
	return hex.EncodeToString(sum.Sum(nil)) == p.Digest
}

// materialise writes the pinned copy below the data directory, where only this
// user can write, and returns its path. The name is kept: scripts look at it.
func (p *pin) materialise(ctx context.Context, call backstay.Call) (path string, err error) {
	dir := filepath.Join(call.DataDir, "scripts", p.Digest)
	path = filepath.Join(dir, filepath.Base(p.Word))
	copied := pin{Path: path, Digest: p.Digest}
	if copied.unchanged(ctx) {
		return path, nil
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	content, err := call.Blobs.Get(p.Digest)
	if err != nil {
		return "", fmt.Errorf("read pinned content: %w", err)
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	// A process that was forked while it is open for writing would keep it from
	// being run (ETXTBSY), and a shell does not try again.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := durable.WriteFile(path, content, durable.Attr{Mode: 0o700}); err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	return path, nil
}
