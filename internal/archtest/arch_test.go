package archtest

import (
	"flag"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the import table into ARCHITECTURE.md")

const root = "../.."

func TestModule(t *testing.T) {
	t.Parallel()
	all, err := load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := find(table(), all[0].dir); !ok || all[0].dir != "" {
		t.Fatalf("first package is %q, want the root: the sources were not found", all[0].dir)
	}
	for name, problems := range map[string][]string{
		"imports":  checkImports(table(), all),
		"names":    checkNames(all),
		"comments": checkComments(all),
		"files":    checkFiles(all),
		"durable":  checkDurable(allowances(), all),
		"decided":  checkDecided(decided(), all),
		"dependencies": checkDependencies(
			read(t, "go.mod"), read(t, "docs/decisions/0002-dependencies.md"), all),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, p := range problems {
				t.Error(p)
			}
		})
	}
}

func TestArchitectureShowsTable(t *testing.T) {
	t.Parallel()
	got := read(t, "ARCHITECTURE.md")
	want, err := splice(got, render(table()))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(root+"/ARCHITECTURE.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ARCHITECTURE.md shows another table; run make generate (-want +got):\n%s", diff)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(root + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRules tests the rules themselves: each one must find what it is for, and
// nothing in the good case beside it.
func TestRules(t *testing.T) {
	t.Parallel()
	const own = `"` + module
	tests := []struct {
		name  string
		path  string
		text  string
		check func([]source) []string
		want  string // part of the one problem; "" for none
	}{
		{"unknown package", "internal/novel/x.go", "package novel", imports, "add a row"},
		{"unknown command", "cmd/other/x.go", "package main", imports, "add a row"},
		{"kind imports driver", "internal/driver/file/x.go", "package file; import " + own + `/internal/driver"`, imports, ""},
		{"kind imports another kind", "internal/driver/file/x.go", "package file; import " + own + `/internal/driver/command"`, imports, "does not allow"},
		{"kind below imports its kind", "internal/driver/traffic/nginx/x.go", "package nginx; import " + own + `/internal/driver/traffic"`, imports, ""},
		{"kind imports engine", "internal/driver/command/x.go", "package command; import " + own + `/internal/engine"`, imports, "does not allow"},
		{"kind imports engine in a test", "internal/driver/command/x_test.go", "package command; import " + own + `/internal/engine"`, imports, "does not allow"},
		{"kind imports the suite in a test", "internal/driver/command/x_test.go", "package command; import " + own + `/internal/driver/drivertest"`, imports, ""},
		{"kind imports the suite in product code", "internal/driver/command/x.go", "package command; import " + own + `/internal/driver/drivertest"`, imports, "test support"},
		{"command imports test support", "cmd/backstay/x.go", "package main; import " + own + `/internal/parts"`, imports, "test support"},
		{"engine imports all kinds", "internal/engine/x.go", "package engine; import " + own + `/internal/driver/all"`, imports, "every kind"},
		{"engine imports all kinds in a test", "internal/engine/x_test.go", "package engine; import " + own + `/internal/driver/all"`, imports, "every kind"},
		{"command imports all kinds", "cmd/backstay/x.go", "package main; import " + own + `/internal/driver/all"`, imports, ""},
		{"simulator imports all kinds", "internal/sim/x.go", "package sim; import " + own + `/internal/driver/all"`, imports, ""},
		{"engine imports a store", "internal/engine/x.go", "package engine; import " + own + `/internal/ledger/sqlite"`, imports, "does not allow"},
		{"engine imports a store in a test", "internal/engine/x_test.go", "package engine; import " + own + `/internal/ledger/sqlite"`, imports, ""},
		{"root imports ours", "x.go", "package backstay; import " + own + `/internal/durable"`, imports, "does not allow"},
		{"root imports a library", "x.go", `package backstay; import "golang.org/x/sys/unix"`, imports, "standard library only"},
		{"root does I/O", "x.go", `package backstay; import "net/http"`, imports, "pure"},
		{"durable imports the root", "internal/durable/x.go", "package durable; import " + own + `"`, imports, "alone"},
		{"durable imports x/sys", "internal/durable/x.go", `package durable; import "golang.org/x/sys/unix"`, imports, ""},
		{"durable imports a library", "internal/durable/x.go", `package durable; import "example.com/lib"`, imports, "standard library only"},
		{"example imports ours", "examples/02-service/app/main.go", "package main; import " + own + `"`, imports, "alone"},
		{"plan does I/O", "internal/plan/x.go", `package plan; import "os/exec"`, imports, "pure"},
		{"plan tests do I/O", "internal/plan/x_test.go", `package plan; import "os/exec"`, imports, ""},

		{"empty name", "internal/spec/util/x.go", "package util", checkNames, "names no thing"},
		{"empty name in a good folder", "internal/spec/x.go", "package helpers", checkNames, "names no thing"},
		{"good name", "internal/spec/x.go", "package spec", checkNames, ""},

		{"no comment", "internal/spec/x.go", "package spec", checkComments, "0 package comments"},
		{"detached comment", "internal/spec/x.go", "// Package spec is.\n\npackage spec", checkComments, "0 package comments"},
		{"comment in a test only", "internal/spec/x_test.go", "// Package spec is.\npackage spec", checkComments, ""},
		{"comment of another package", "internal/spec/x.go", "// Package plan is.\npackage spec", checkComments, "does not start"},
		{"comment", "internal/spec/x.go", "// Package spec is.\npackage spec", checkComments, ""},

		{"init", "internal/spec/x.go", "package spec; func init() {}", checkFiles, "init()"},
		{"method named init", "internal/spec/x.go", "package spec; type t int; func (t) init() {}", checkFiles, ""},
		{"long file", "internal/spec/x.go", "package spec" + strings.Repeat("\n", 501), checkFiles, "501 lines"},
		{"file of the limit", "internal/spec/x.go", "package spec" + strings.Repeat("\n", 500), checkFiles, ""},
		{"long test", "internal/spec/x_test.go", "package spec" + strings.Repeat("\n", 501), checkFiles, ""},
		{"long generated file", "internal/spec/x.go", "// Code generated by x; DO NOT EDIT.\n\npackage spec" + strings.Repeat("\n", 501), checkFiles, ""},

		{"rename", "internal/tree/x.go", `package tree; import "os"; var _ = os.Rename("a", "b")`, durable, "os.Rename"},
		{"rename as a value", "internal/tree/x.go", `package tree; import "os"; var f = os.Rename`, durable, "os.Rename"},
		{"rename under another name", "internal/tree/x.go", `package tree; import disk "os"; var f = disk.Rename`, durable, "os.Rename"},
		{"rename of a root", "internal/tree/x.go", `package tree; func f(r *os.Root) { r.Rename("a", "b") }`, durable, ".Rename"},
		{"sync", "internal/tree/x.go", `package tree; func f(x *os.File) { x.Sync() }`, durable, ".Sync"},
		{"lock", "internal/tree/x.go", `package tree; import "golang.org/x/sys/unix"; var f = unix.Flock`, durable, "unix.Flock"},
		{"rename in durable", "internal/durable/x.go", `package durable; import "os"; var f = os.Rename`, durable, ""},
		{"rename in a test", "internal/tree/x_test.go", `package tree; import "os"; var f = os.Rename`, durable, ""},
		{"durable's own function", "internal/tree/x.go", "package tree; import " + own + `/internal/durable"; var _ = durable.Rename("a", "b")`, durable, ""},
		{"sync of something else", "internal/tree/x.go", `package tree; func f(x y) { x.Sync(1) }`, durable, ""},
		{"allowed", "internal/proc/x.go", `package proc; import "os"; var f = os.Rename`, durable, ""},

		{"decision", "internal/engine/next.go", `package engine; import "time"; var d time.Duration`, pure, ""},
		{"decision is gone", "internal/engine/other.go", `package engine`, pure, "is not there"},
		{"decision reads the clock", "internal/engine/next.go", `package engine; import "time"; var _ = time.Now()`, pure, "clock"},
		{"decision starts a goroutine", "internal/engine/next.go", `package engine; func f() { go f() }`, pure, "goroutine"},
		{"decision does I/O", "internal/engine/next.go", `package engine; import "os"`, pure, "imports os"},

		{"library without a reason", "internal/spec/x.go", `package spec; import "example.com/lib/v4/sub"`, dependencies, "has no line"},
		{"library with a reason", "internal/spec/x.go", `package spec; import "example.com/known/sub"`, dependencies, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all, err := load(fstest.MapFS{tt.path: {Data: []byte(tt.text)}})
			if err != nil {
				t.Fatal(err)
			}
			got := tt.check(all)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("got problems %q, want none", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("got problems %q, want one with %q", got, tt.want)
			}
		})
	}
}

func imports(all []source) []string { return checkImports(table(), all) }

// durable checks with an allowance for internal/proc, which is reported where it
// is not used: that second problem is left out.
func durable(all []source) []string {
	var problems []string
	for _, p := range checkDurable([]allowance{{"internal/proc", "os.Rename", "for this test"}}, all) {
		if !strings.Contains(p, "is not used") {
			problems = append(problems, p)
		}
	}
	return problems
}

func pure(all []source) []string { return checkDecided([]string{"internal/engine/next.go"}, all) }

func dependencies(all []source) []string {
	const goMod = "module x\n\nrequire (\n\texample.com/lib/v4 v4.0.0\n\texample.com/known v1.0.0 // indirect\n)\n"
	return checkDependencies(goMod, "| `example.com/known` | because |\n", all)
}

func TestUnusedAllowance(t *testing.T) {
	t.Parallel()
	got := checkDurable([]allowance{{"internal/proc", "os.Rename", "for this test"}}, nil)
	if len(got) != 1 || !strings.Contains(got[0], "is not used") {
		t.Errorf("got %q, want the unused allowance", got)
	}
}

func TestListedButNotRequired(t *testing.T) {
	t.Parallel()
	got := checkDependencies("module x\n", "| `example.com/gone` | because |\n", nil)
	if len(got) != 1 || !strings.Contains(got[0], "does not require") {
		t.Errorf("got %q, want the line without a module", got)
	}
}

func TestLoadSkips(t *testing.T) {
	t.Parallel()
	all, err := load(fstest.MapFS{
		"a.go":                      {Data: []byte("package a")},
		"x/testdata/bad.go":         {Data: []byte("not Go")},
		"tools/go.mod":              {Data: []byte("module tools")},
		"tools/bad.go":              {Data: []byte("not Go")},
		".git/bad.go":               {Data: []byte("not Go")},
		"internal/x/x.go":           {Data: []byte("package x")},
		"internal/x/x_linux.go":     {Data: []byte("//go:build linux\n\npackage x")},
		"internal/x/README.md":      {Data: []byte("text")},
		"internal/x/extern_test.go": {Data: []byte("package x_test")},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		for _, f := range s.files {
			got = append(got, s.name()+" "+f.path)
		}
	}
	want := []string{"a a.go", "x internal/x/extern_test.go", "x internal/x/x.go", "x internal/x/x_linux.go"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loaded files (-want +got):\n%s", diff)
	}
}

func TestLoadReportsBadSource(t *testing.T) {
	t.Parallel()
	if _, err := load(fstest.MapFS{"a.go": {Data: []byte("package")}}); err == nil {
		t.Error("got no error for a file that is not Go")
	}
}
