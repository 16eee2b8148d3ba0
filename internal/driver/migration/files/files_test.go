package files

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// tree makes a directory of name, content pairs.
func tree(pairs ...string) fstest.MapFS {
	dir := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		dir[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1]), Mode: 0o644}
	}
	return dir
}

// shape is a set in a form that reads well in a table.
func shape(s Set) []string {
	var out []string
	for _, m := range s.Migrations {
		line := m.Version + " " + m.Name + " up" + scripted(&m.Up)
		if m.Down != nil {
			line += " down" + scripted(m.Down)
		}
		out = append(out, line)
	}
	return out
}

func scripted(s *Script) string {
	text := ""
	if s.NoTransaction {
		text += "!"
	}
	for _, c := range s.Chunks {
		mark := "("
		if c.Whole {
			mark = "["
		}
		text += mark + strings.Join(strings.Fields(c.Text), " ") + ")"
	}
	return text
}

func TestRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		dir  fs.FS
		as   Convention
		want []string
	}{
		{
			"goose", tree("00002_b.sql", "-- +goose Up\nA;\n", "00001_a.sql",
				"-- a comment\n-- +goose NO TRANSACTION\n-- +goose Up\nA;\n-- +goose StatementBegin\nB; C;\n-- +goose StatementEnd\nD;\n-- +goose Down\nE;\n", "README.md", "x"), Goose,
			[]string{"1 a up!(A;)[B; C;)(D;) down!(E;)", "2 b up(A;)"},
		},
		{
			"golang-migrate", tree("10_b.up.sql", "B", "2_a.up.sql", "A", "2_a.down.sql", "a", "010x.txt", ""), GolangMigrate,
			[]string{"2 a up(A) down(a)", "10 b up(B)"},
		},
		{
			"flyway", tree("V1_10__later.sql", "L", "V1.2__first_one.sql", "F", "U1.2__x.sql", "u", "U1.2__x.sql.conf", "executeInTransaction=false\n"), Flyway,
			[]string{"1.2 first one up(F) down!(u)", "1.10 later up(L)"},
		},
		{
			"dbmate", tree("20240101_a.sql", "-- migrate:up transaction:false\nA;\n\n-- migrate:down\nB;\n", "007_z.sql", "-- migrate:up\n"), Dbmate,
			[]string{"007 z up", "20240101 a up!(A;) down(B;)"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, convention := range []Convention{"", tt.as} {
				set, problems := Read(tt.dir, convention)
				if len(problems) > 0 {
					t.Fatalf("convention %q: %v", convention, problems)
				}
				if set.Convention != tt.as {
					t.Errorf("convention: got %s, want %s", set.Convention, tt.as)
				}
				if diff := cmp.Diff(shape(set), tt.want); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		dir  fs.FS
		as   Convention
		want []string // beginnings of problems
	}{
		{"nothing", tree("README", ""), "", []string{"no migration file says"}},
		{"two conventions", tree("1_a.up.sql", "", "2_b.sql", "-- +goose Up\n"), "", []string{"the files follow more than one convention: goose (2_b.sql), golang-migrate (1_a.up.sql)"}},
		{"unknown convention", tree("1_a.up.sql", ""), "liquibase", []string{`"liquibase" is not a convention`}},
		{"one version twice", tree("1_a.up.sql", "", "01_b.up.sql", ""), GolangMigrate, []string{"1_a.up.sql: it has the version of 01_b.up.sql"}},
		{"down alone", tree("1_a.down.sql", "", "2_b.up.sql", ""), GolangMigrate, []string{"1_a.down.sql: it takes back version 1"}},
		{"a name the tool would skip", tree("a.up.sql", "", "2_b.up.sql", ""), GolangMigrate, []string{"a.up.sql: it is not named"}},
		{"goose marks", tree("1_a.sql", "-- +goose Up\n-- +goose StatementBegin\nA\n-- +goose Down\n-- +goose Sideways\n"), Goose, []string{"1_a.sql:4:1: `+goose StatementBegin` is not closed", "1_a.sql:5:1: `+goose Sideways`"}},
		{"goose environment", tree("1_a.sql", "-- +goose ENVSUB ON\n-- +goose Up\n"), Goose, []string{"1_a.sql:1:1: `+goose ENVSUB`"}},
		{"goose without up", tree("1_a.sql", "CREATE TABLE a (b int);\n"), Goose, []string{"1_a.sql:1:1: text before the first mark"}},
		{"goose without a mark", tree("1_a.sql", "-- nothing\n"), Goose, []string{"1_a.sql: it has no `-- +goose Up`"}},
		{"flyway repeatable", tree("R__views.sql", "", "V1__a.sql", ""), "", []string{"R__views.sql: a repeatable migration"}},
		{"flyway callback", tree("beforeMigrate.sql", "", "V1__a.sql", ""), "", []string{"beforeMigrate.sql: it is not named"}},
		{"flyway placeholder", tree("V1__a.sql", "A\nB ${x}"), "", []string{"V1__a.sql:2:1: a placeholder"}},
		{"flyway same version", tree("V1__a.sql", "", "V1.0__b.sql", ""), "", []string{"V1__a.sql: it has the version of V1.0__b.sql"}},
		{"flyway setting", tree("V1__a.sql", "", "V1__a.sql.conf", "encoding=latin1"), "", []string{"V1__a.sql.conf:1:1: \"encoding\""}},
		{"dbmate order", tree("1_a.sql", "-- migrate:down\n-- migrate:up\n-- migrate:up x:y\n"), Dbmate, []string{"1_a.sql:1:1: `-- migrate:down`", "1_a.sql:3:1: `-- migrate:up x:y`"}},
		{"a link", fstest.MapFS{"1_a.up.sql": {Data: []byte("x"), Mode: fs.ModeSymlink}}, GolangMigrate, []string{"1_a.up.sql: it is not a regular file"}},
		{"not text", tree("1_a.up.sql", "\xff"), GolangMigrate, []string{"1_a.up.sql: it is not UTF-8"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, problems := Read(tt.dir, tt.as)
			if len(problems) != len(tt.want) {
				t.Fatalf("got %d problems %v, want %d", len(problems), problems, len(tt.want))
			}
			for i, p := range problems {
				if !strings.HasPrefix(p.String(), tt.want[i]) {
					t.Errorf("got %q, want it to begin with %q", p, tt.want[i])
				}
			}
		})
	}
}

// Flyway reads by lines: how they end does not count.
func TestFlywayChecksum(t *testing.T) {
	t.Parallel()
	if a, b := crc("SELECT 1;\n"), crc("\ufeffSELECT 1;\r\n"); a != b {
		t.Errorf("line ends and byte order marks count: %d, %d", a, b)
	}
	if crc("a") == crc("b") {
		t.Error("two texts have one checksum")
	}
}

// Whatever is in the files, reading ends, is the same twice, and what it takes
// is all of the text and nothing else.
func FuzzRead(f *testing.F) {
	f.Add("1_a.sql", "-- +goose Up\nA;\n-- +goose Down\nB;\n", "2_b.sql", "-- +goose Up\n-- +goose StatementBegin\nx\n-- +goose StatementEnd\n")
	f.Add("1_a.up.sql", "A", "1_a.down.sql", "B")
	f.Add("V1__a.sql", "A", "U1__b.sql", "B")
	f.Add("1_a.sql", "-- migrate:up transaction:false\nA\n-- migrate:down\nB", "x.sql.conf", "a=b")
	f.Fuzz(func(t *testing.T, n1, t1, n2, t2 string) {
		if !fs.ValidPath(n1) || !fs.ValidPath(n2) || strings.ContainsAny(n1+n2, "/") || n1 == "." || n2 == "." {
			return
		}
		dir := tree(n1, t1, n2, t2)
		set, problems := Read(dir, "")
		again, more := Read(dir, "")
		if diff := cmp.Diff(shape(set), shape(again)); diff != "" || len(problems) != len(more) {
			t.Fatalf("two readings differ:\n%s%v\n%v", diff, problems, more)
		}
		if len(problems) > 0 {
			return
		}
		for _, m := range set.Migrations {
			for _, s := range []*Script{&m.Up, m.Down} {
				if s == nil {
					continue
				}
				source := string(dir[s.File].Data)
				for _, c := range s.Chunks {
					at := lines(source, c.Line)
					if !strings.HasPrefix(at, c.Text) {
						t.Fatalf("%s:%d does not hold %q", s.File, c.Line, c.Text)
					}
				}
			}
		}
	})
}

// lines is text from its n-th line on.
func lines(text string, n int) string {
	for ; n > 1; n-- {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}
