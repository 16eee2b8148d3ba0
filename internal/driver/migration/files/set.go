// Package files reads migration files as other tools write them: goose,
// golang-migrate, Flyway and dbmate, into one canonical, ordered Set. It owns
// the conventions (names of files, the marks inside them, how versions order)
// and the checksums. It does not know SQL: what a statement is, is the business
// of the databases.
//
// Reading is strict: a file that one convention would run and Backstay would
// not, or the other way round, is a problem, never skipped. All problems come
// at once. The same files always give the same Set.
package files

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
)

// Convention is a tool's way to name and mark migrations.
type Convention string

// The conventions.
const (
	Goose         Convention = "goose"
	GolangMigrate Convention = "golang-migrate"
	Flyway        Convention = "flyway"
	Dbmate        Convention = "dbmate"
)

// Conventions lists them all.
func Conventions() []Convention { return []Convention{Goose, GolangMigrate, Flyway, Dbmate} }

const (
	// maxFile is the largest file that is read, maxFiles how many there may be.
	maxFile  = 128 << 20
	maxFiles = 20_000
)

// Set is all migrations of one directory, oldest first.
type Set struct {
	Convention Convention
	Migrations []Migration
}

// Migration is one version.
type Migration struct {
	// Version is as the tool's version table holds it.
	Version string
	Name    string
	Up      Script
	// Down is nil where the files hold none.
	Down  *Script
	order order
}

// Script is one direction of a migration.
type Script struct {
	File   string // the file's name
	Chunks []Chunk
	// NoTransaction: its statements must not share one transaction.
	NoTransaction bool
	// SHA256 is of the whole file that it stands in, in hex.
	SHA256 string
	// CRC32 is Flyway's checksum of that file.
	CRC32 int32
}

// Chunk is a run of lines of a script.
type Chunk struct {
	Text string
	Line int // of its first line, from 1
	// Whole marks one statement that must not be split (goose's StatementBegin).
	Whole bool
}

// order is how versions compare: part by part.
type order []uint64

func (o order) compare(p order) int { return slices.Compare(o, p) }

// Version finds a migration by its version.
func (s Set) Version(version string) (Migration, bool) {
	for _, m := range s.Migrations {
		if m.Version == version {
			return m, true
		}
	}
	return Migration{}, false
}

// file is one file that was read.
type file struct {
	name string
	text string
}

func (f file) sum() string {
	sum := sha256.Sum256([]byte(f.text))
	return hex.EncodeToString(sum[:])
}

// reader collects what is read and what is wrong with it.
type reader struct {
	problems []backstay.Problem
	set      Set
	versions map[string]string // that are taken, with their file
}

func (r *reader) refuse(name string, line int, hint, format string, args ...any) {
	r.problems = append(r.problems, backstay.Problem{File: name, Line: line, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// Read reads the SQL files in the root of a file system. An empty convention is
// found out, where the names and marks leave no doubt. Problems name the file.
func Read(dir fs.FS, convention Convention) (Set, []backstay.Problem) {
	r := &reader{versions: map[string]string{}}
	all := r.load(dir)
	if len(r.problems) > 0 {
		return Set{}, r.problems
	}
	if convention == "" {
		if convention = r.detect(all); convention == "" {
			return Set{}, r.problems
		}
	}
	r.set.Convention = convention
	switch convention {
	case Goose:
		r.goose(all)
	case GolangMigrate:
		r.golangMigrate(all)
	case Flyway:
		r.flyway(all)
	case Dbmate:
		r.dbmate(all)
	default:
		r.refuse("", 0, "one of goose, golang-migrate, flyway, dbmate", "%q is not a convention for migration files", convention)
	}
	r.sort()
	if len(r.problems) == 0 && len(r.set.Migrations) == 0 {
		r.refuse("", 0, "name the directory that holds them", "there are no migrations of the convention %s", convention)
	}
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b backstay.Problem) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
		})
		return Set{}, r.problems
	}
	return r.set, nil
}

// load reads the SQL files (and Flyway's settings beside them) of a directory.
// Other files are none of ours: a README or Go code.
func (r *reader) load(dir fs.FS) []file {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		r.refuse("", 0, "", "the directory cannot be read: %v", err)
		return nil
	}
	var all []file
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".sql") && !strings.HasSuffix(name, ".sql.conf") {
			continue
		}
		if len(all) == maxFiles {
			r.refuse("", 0, "", "the directory holds more than %d SQL files", maxFiles)
			return nil
		}
		if text, ok := r.content(dir, name); ok {
			all = append(all, file{name: name, text: text})
		}
	}
	return all
}

func (r *reader) content(dir fs.FS, name string) (string, bool) {
	// Not followed: what a link leads to is not pinned by the directory.
	info, err := fs.Lstat(dir, name)
	switch {
	case err != nil:
		r.refuse(name, 0, "", "it cannot be read: %v", err)
		return "", false
	case !info.Mode().IsRegular():
		r.refuse(name, 0, "put the file itself there", "it is not a regular file")
		return "", false
	case info.Size() > maxFile:
		r.refuse(name, 0, "load data from outside of migrations", "it is larger than %d MiB", maxFile>>20)
		return "", false
	}
	text, err := fs.ReadFile(dir, name)
	if err != nil {
		r.refuse(name, 0, "", "it cannot be read: %v", err)
		return "", false
	}
	if !utf8.Valid(text) || strings.ContainsRune(string(text), 0) {
		r.refuse(name, 0, "save it as UTF-8", "it is not UTF-8 text")
		return "", false
	}
	return string(text), true
}

// detect finds the convention that the files follow.
func (r *reader) detect(all []file) Convention {
	found := make(map[Convention]string)
	for _, f := range all {
		switch {
		case strings.HasSuffix(f.name, ".up.sql"), strings.HasSuffix(f.name, ".down.sql"):
			found[GolangMigrate] = f.name
		case flywayName(f.name):
			found[Flyway] = f.name
		case hasMark(f.text, gooseMark):
			found[Goose] = f.name
		case hasMark(f.text, dbmateMark):
			found[Dbmate] = f.name
		}
	}
	switch len(found) {
	case 1:
		for c := range found {
			return c
		}
	case 0:
		r.refuse("", 0, "say which with format:", "no migration file says which convention it follows (goose, golang-migrate, flyway, dbmate)")
		return ""
	}
	var names []string
	for _, c := range Conventions() {
		if example, ok := found[c]; ok {
			names = append(names, fmt.Sprintf("%s (%s)", c, example))
		}
	}
	r.refuse("", 0, "one directory per convention, or say which with format:", "the files follow more than one convention: %s", strings.Join(names, ", "))
	return ""
}

// add takes a migration up, unless its version is there.
func (r *reader) add(m Migration) {
	key := m.order.text()
	if other, taken := r.versions[key]; taken {
		r.refuse(m.Up.File, 0, "give one of them another version", "it has the version of %s", other)
		return
	}
	r.versions[key] = m.Up.File
	r.set.Migrations = append(r.set.Migrations, m)
}

func (r *reader) sort() {
	slices.SortStableFunc(r.set.Migrations, func(a, b Migration) int { return a.order.compare(b.order) })
}

// hasMark reports whether a line begins with a mark such as "-- +goose".
func hasMark(text, mark string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), mark) {
			return true
		}
	}
	return false
}

// whole is a script of one file that has one direction.
func whole(f file) Script {
	s := Script{File: f.name, SHA256: f.sum(), CRC32: crc(f.text)}
	if strings.TrimSpace(f.text) != "" {
		s.Chunks = []Chunk{{Text: f.text, Line: 1}}
	}
	return s
}

// stem is a file's name without its last extension.
func stem(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }
