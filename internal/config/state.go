package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Names of the environment variables that say where things are; a flag goes
// before each.
const (
	StateVariable   = "BACKSTAY_STATE"
	DataDirVariable = "BACKSTAY_DATA_DIR"
)

// rootState is the state directory of root.
const rootState = "/var/lib/backstay"

// State is where the ledger is and where this host keeps its files. Its text
// forms hide the password of a URL; only the field URL has it.
type State struct {
	// Dir is an absolute local directory: of an embedded ledger its own; of one
	// on a server where this host keeps its audit key, which is the data
	// directory where one is given, else the default directory.
	Dir string
	// URL is the postgres:// URL of a ledger on a server, with its password;
	// empty for an embedded one.
	URL string
	// DataDir is the absolute directory of releases, logs and sockets.
	DataDir string
}

// Flags are what the command line says; empty means not given.
type Flags struct {
	State   string
	DataDir string
}

// Host is what the defaults follow from.
type Host struct {
	UID    int
	Home   string // "": unknown
	Getenv func(string) string
}

// ThisHost reads the process's uid, home directory and environment.
func ThisHost() Host {
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return Host{UID: os.Getuid(), Home: home, Getenv: os.Getenv}
}

// FindState resolves the state: flag, then environment, then the default
// (root: /var/lib/backstay; others: $XDG_STATE_HOME/backstay or
// ~/.local/state/backstay). It creates nothing. Errors carry a hint and never
// a URL's password.
func FindState(flags Flags, host Host) (State, error) {
	value, from := flags.State, "--state"
	if value == "" {
		value, from = host.Getenv(StateVariable), "$"+StateVariable
	}
	var st State
	var err error
	switch {
	case value == "":
		st.Dir, err = defaultDir(host)
	case strings.Contains(value, "://"):
		if st.URL, err = checkURL(value, from); err == nil {
			st.Dir, err = keyDir(flags, host)
		}
	default:
		st.Dir, err = checkDir(value, from)
	}
	if err != nil {
		return State{}, err
	}
	st.DataDir, err = dataDir(flags, host, st)
	if err != nil {
		return State{}, err
	}
	return st, nil
}

// keyDir is where the audit key of a host is whose ledger is on a server.
func keyDir(flags Flags, host Host) (string, error) {
	if flags.DataDir != "" || host.Getenv(DataDirVariable) != "" {
		return dataDir(flags, host, State{})
	}
	return defaultDir(host)
}

// Embedded reports whether the ledger is in the directory Dir.
func (s State) Embedded() bool { return s.URL == "" }

// Redacted is the state as it may be shown: the directory, or the URL without
// its password.
func (s State) Redacted() string {
	if s.URL == "" {
		return s.Dir
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return "postgres://" + redacted
	}
	q := u.Query()
	for name := range q {
		if strings.Contains(strings.ToLower(name), "password") {
			q.Set(name, "xxxxx")
		}
	}
	u.RawQuery = q.Encode()
	return u.Redacted()
}

// String is Redacted, so that no format verb shows a password.
func (s State) String() string { return s.Redacted() }

// GoString is Redacted for %#v.
func (s State) GoString() string {
	return fmt.Sprintf("config.State{%s data %s}", s.Redacted(), s.DataDir)
}

// MarshalText is Redacted for encoders.
func (s State) MarshalText() ([]byte, error) { return []byte(s.Redacted()), nil }

// LogValue is Redacted for logs.
func (s State) LogValue() slog.Value { return slog.StringValue(s.Redacted()) }

func defaultDir(host Host) (string, error) {
	if host.UID == 0 {
		return rootState, nil
	}
	// The XDG base directory specification: a relative value is ignored.
	if dir := host.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "backstay"), nil
	}
	if !filepath.IsAbs(host.Home) {
		return "", &backstay.Error{
			Class: backstay.Permanent, Op: "find state directory", Err: errors.New("there is no home directory"),
			Hint: "say where with --state DIR or $" + StateVariable,
		}
	}
	return filepath.Join(host.Home, ".local", "state", "backstay"), nil
}

// checkURL accepts the URL of a PostgreSQL database. A parse error of net/url
// quotes the URL, password and all, so it is not passed on.
func checkURL(value, from string) (string, error) {
	scheme, _, _ := strings.Cut(value, "://")
	if scheme != "postgres" && scheme != "postgresql" {
		return "", &backstay.Error{
			Class: backstay.Permanent, Op: "read state", Subject: from, Err: fmt.Errorf("no ledger can be kept at %q", scheme+"://"),
			Hint: "give a directory, or postgres://user@host/database",
		}
	}
	u, err := url.Parse(value)
	if err != nil || u.Opaque != "" || strings.Trim(u.Path, "/") == "" && !u.Query().Has("dbname") {
		return "", &backstay.Error{
			Class: backstay.Permanent, Op: "read state", Subject: from, Err: errors.New("the URL is malformed, or names no database"),
			Hint: "write postgres://user@host/database; characters such as @ / : in a password are written %40 %2F %3A",
		}
	}
	return value, nil
}

func checkDir(value, from string) (string, error) {
	if strings.Contains(value, "dbname=") || strings.Contains(value, "host=") {
		return "", &backstay.Error{
			Class: backstay.Permanent, Op: "read state", Subject: from, Err: errors.New("a connection string is no directory"),
			Hint: "write the database as postgres://user@host/database",
		}
	}
	dir, err := absolute(value, from)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return "", &backstay.Error{
			Class: backstay.Permanent, Op: "read state", Subject: dir, Err: errors.New("it is not a directory"),
			Hint: "give the directory that holds ledger.db",
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", &backstay.RefusedError{
			What: "state", Err: fmt.Errorf("read %s: %w", from, err),
			Hint: "name a directory of your own with --state",
		}
	}
	return dir, nil
}

func dataDir(flags Flags, host Host, st State) (string, error) {
	if flags.DataDir != "" {
		return absolute(flags.DataDir, "--data-dir")
	}
	if dir := host.Getenv(DataDirVariable); dir != "" {
		return absolute(dir, "$"+DataDirVariable)
	}
	return filepath.Join(st.Dir, "data"), nil
}

func absolute(path, from string) (string, error) {
	if strings.ContainsRune(path, 0) {
		return "", &backstay.Error{Class: backstay.Permanent, Op: "read path", Subject: from, Err: errors.New("it holds a NUL byte")}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("make %s absolute: %w", from, err)
	}
	return abs, nil
}
