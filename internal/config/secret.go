package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
)

const (
	secretPrefix  = "secret:"
	maxSecretFile = 1 << 20
	// otherRead and otherSearch are the permission bits of everybody else.
	otherRead, otherSearch fs.FileMode = 0o004, 0o001
)

// Secrets resolves secret references at the moment of use:
//
//   - secret:env/NAME is an environment variable; it must be set and not empty.
//   - secret:file/PATH is a regular file of at most 1 MiB, relative to the
//     spec's directory; secret:file//run/x is absolute. One newline at the end
//     is cut.
//
// A file that everybody on the host can read is refused. Everybody can when
// its mode has the "other" read bit and every directory above it lets others
// through. Files of root below /run/secrets are taken as they are: container
// runtimes mount them there with mode 0444.
//
// It keeps no value and is safe for concurrent use.
type Secrets struct {
	dir    string
	lookup func(string) (string, bool)
	// mounts are where a platform mounts secrets of mode 0444.
	mounts []string
}

var _ backstay.Secrets = (*Secrets)(nil)

// NewSecrets resolves relative paths from dir, the absolute directory of the
// spec file; lookup is the environment (os.LookupEnv).
func NewSecrets(dir string, lookup func(string) (string, bool)) (*Secrets, error) {
	if !filepath.IsAbs(dir) || lookup == nil {
		return nil, errors.New("new secrets: an absolute directory and an environment are required")
	}
	return &Secrets{dir: dir, lookup: lookup, mounts: []string{"/run/secrets", "/var/run/secrets"}}, nil
}

// Resolve returns the value of a reference. Errors are *backstay.Error; they
// name the reference and never the value.
func (s *Secrets) Resolve(ref string) (string, error) {
	body, ok := strings.CutPrefix(ref, secretPrefix)
	if !ok {
		// It may be the value itself, written where a reference belongs.
		return "", refuse("(not shown)", backstay.Permanent, "is not a secret reference", "write secret:env/NAME or secret:file/PATH")
	}
	provider, name, _ := strings.Cut(body, "/")
	switch provider {
	case "env":
		return s.fromEnv(ref, name)
	case "file":
		return s.fromFile(ref, name)
	}
	return "", refuse(ref, backstay.Permanent, fmt.Sprintf("there is no secret provider %q", provider), "there are: env, file")
}

func (s *Secrets) fromEnv(ref, name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return "", refuse(ref, backstay.Permanent, "names no environment variable", "write secret:env/NAME")
	}
	value, set := s.lookup(name)
	switch {
	case !set:
		return "", refuse(ref, backstay.NotFound, "the environment variable is not set", "set "+name+" where backstay runs")
	case value == "":
		return "", refuse(ref, backstay.NotFound, "the environment variable is empty", "set "+name+" where backstay runs")
	}
	return value, nil
}

func (s *Secrets) fromFile(ref, name string) (string, error) {
	if strings.Trim(name, "/") == "" || strings.ContainsAny(name, "\x00\n\r") {
		return "", refuse(ref, backstay.Permanent, "names no file", "write secret:file/PATH; secret:file//run/x is absolute")
	}
	path := filepath.Clean(name)
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.dir, path)
	}
	// What a symlink points to is what is checked and read.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fileError(ref, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return "", fileError(ref, err)
	}
	value, err := s.read(ref, path, f)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = fileError(ref, closeErr)
	}
	if err != nil {
		return "", err
	}
	return value, nil
}

func (s *Secrets) read(ref, path string, f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", fileError(ref, err)
	}
	switch {
	case !info.Mode().IsRegular():
		return "", refuse(ref, backstay.Permanent, "it is not a regular file", "")
	case info.Size() > maxSecretFile:
		return "", refuse(ref, backstay.Permanent, fmt.Sprintf("the file is larger than %d bytes", maxSecretFile), "")
	}
	open, err := s.openToAll(path, info)
	if err != nil {
		return "", fileError(ref, err)
	}
	if open {
		return "", refuse(ref, backstay.Permanent, fmt.Sprintf("everybody on this host can read the file (mode %04o)", info.Mode().Perm()), "chmod 600 "+path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fileError(ref, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case len(data) > maxSecretFile:
		return "", refuse(ref, backstay.Permanent, fmt.Sprintf("the file is larger than %d bytes", maxSecretFile), "")
	case value == "":
		return "", refuse(ref, backstay.NotFound, "the file is empty", "")
	}
	return value, nil
}

// openToAll reports whether everybody on the host can read the file.
func (s *Secrets) openToAll(path string, info fs.FileInfo) (bool, error) {
	if info.Mode()&otherRead == 0 {
		return false, nil
	}
	for _, mount := range s.mounts {
		if strings.HasPrefix(path, mount+"/") && ownerOf(info) == 0 {
			return false, nil
		}
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		above, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		if above.Mode()&otherSearch == 0 {
			return false, nil
		}
		if dir == filepath.Dir(dir) {
			return true, nil
		}
	}
}

func refuse(subject string, class backstay.ErrorClass, why, hint string) error {
	return &backstay.Error{Class: class, Op: "resolve secret", Subject: subject, Err: errors.New(why), Hint: hint}
}

// fileError keeps of an I/O error what is not the content.
func fileError(ref string, err error) error {
	class := backstay.Permanent
	if errors.Is(err, fs.ErrNotExist) {
		class = backstay.NotFound
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return &backstay.Error{Class: class, Op: "resolve secret", Subject: ref, Err: err}
}
