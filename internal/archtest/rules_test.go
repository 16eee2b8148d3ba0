package archtest

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

// maxLines is the length of a file outside tests.
const maxLines = 500

// checkImports holds the table against the sources.
func checkImports(rows []row, all []source) (problems []string) {
	for _, s := range all {
		r, ok := find(rows, s.dir)
		if !ok {
			problems = append(problems, fmt.Sprintf("%s: the import table does not know this package: add a row with what it may import to table() in internal/archtest/table_test.go, and say in the commit why it exists", s.dir))
			continue
		}
		for _, f := range s.files {
			for _, imp := range f.imports {
				if why := refuse(r, s.dir, f.test, imp); why != "" {
					problems = append(problems, fmt.Sprintf("%s imports %s: %s", f.path, imp, why))
				}
			}
		}
	}
	return problems
}

// refuse says why a file in dir may not import imp; "" where it may.
func refuse(r row, dir string, test bool, imp string) string {
	ours, isOurs := strings.CutPrefix(imp+"/", module+"/")
	ours = strings.TrimSuffix(ours, "/")
	switch {
	case isOurs:
		return refuseOurs(r, dir, test, ours)
	case !strings.Contains(strings.SplitN(imp, "/", 2)[0], "."):
		if test {
			return ""
		}
		for _, n := range r.never {
			if covers(n+"/...", imp) {
				return "this package is pure: it takes values, the caller does the I/O"
			}
		}
		return ""
	default:
		if r.alone && !anyCovers(below(r.third), imp) && !test {
			return "this package uses the standard library only"
		}
		return ""
	}
}

func refuseOurs(r row, dir string, test bool, ours string) string {
	lists := anyCovers(listers(), dir)
	helps := anyCovers(support(), ours)
	switch {
	case ours == dir:
		return ""
	case ours == "internal/driver/all" && !lists:
		return "only " + strings.Join(listers(), " and ") + " may know every kind"
	case helps && !test && !anyCovers(support(), dir):
		return "test support is for test files"
	case helps && test:
		return ""
	case ours == "":
		if r.alone && !test {
			return "this package stands alone"
		}
		return ""
	case anyCovers(r.may, ours), test && anyCovers(r.tests, ours):
		return ""
	}
	return "the table in internal/archtest/table_test.go does not allow it; move the code, or declare a small interface where it is used"
}

func below(dirs []string) []string {
	patterns := make([]string, len(dirs))
	for i, d := range dirs {
		patterns[i] = d + "/..."
	}
	return patterns
}

// checkNames refuses names that say nothing.
func checkNames(all []source) (problems []string) {
	empty := []string{
		"base", "common", "core", "helper", "helpers", "lib", "manager", "managers", "misc", "shared",
		"type", "types", "util", "utils",
	}
	for _, s := range all {
		for _, word := range append(strings.Split(s.dir, "/"), s.name()) {
			if slices.Contains(empty, word) {
				problems = append(problems, fmt.Sprintf("%s: %q names no thing: name the package after the noun it owns", s.dir, word))
				break
			}
		}
	}
	return problems
}

// checkComments wants exactly one package comment per package, in Go's form.
func checkComments(all []source) (problems []string) {
	for _, s := range all {
		onlyTests := !slices.ContainsFunc(s.files, func(f file) bool { return !f.test })
		var with []string
		for _, f := range s.files {
			if f.syntax.Doc == nil || (f.test && !onlyTests) {
				continue
			}
			with = append(with, f.path)
			want := "Package " + s.name() + " "
			if s.name() != "main" && !strings.HasPrefix(f.syntax.Doc.Text(), want) {
				problems = append(problems, fmt.Sprintf("%s: the package comment does not start with %q", f.path, want))
			}
		}
		if len(with) != 1 {
			problems = append(problems, fmt.Sprintf("%s: %d package comments %v, want exactly one that says what the package is for, what it promises and what it is not", name(s.dir), len(with), with))
		}
	}
	return problems
}

func name(dir string) string {
	if dir == "" {
		return "the root package"
	}
	return dir
}

// checkFiles refuses init functions and files that are too long.
func checkFiles(all []source) (problems []string) {
	for _, s := range all {
		for _, f := range s.files {
			if f.lines > maxLines && !f.test && !f.generated {
				problems = append(problems, fmt.Sprintf("%s has %d lines, more than %d: one noun per file", f.path, f.lines, maxLines))
			}
			for _, d := range f.syntax.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					problems = append(problems, fmt.Sprintf("%s has an init(): wire it in main", f.path))
				}
			}
		}
	}
	return problems
}

// checkDurable refuses renames, syncs and file locks outside internal/durable,
// but for the allowances. Tests play the outsider and may.
func checkDurable(allowed []allowance, all []source) (problems []string) {
	used := map[allowance]bool{}
	for _, s := range all {
		if s.dir == "internal/durable" || anyCovers(support(), s.dir) {
			continue
		}
		for _, f := range s.files {
			if f.test {
				continue
			}
			for _, call := range durableCalls(f) {
				i := slices.IndexFunc(allowed, func(a allowance) bool { return a.dir == s.dir && a.call == call })
				if i >= 0 {
					used[allowed[i]] = true
					continue
				}
				problems = append(problems, fmt.Sprintf("%s uses %s: only internal/durable renames, syncs and locks files", f.path, call))
			}
		}
	}
	for _, a := range allowed {
		if !used[a] {
			problems = append(problems, fmt.Sprintf("allowance of %s for %s is not used: remove it", a.call, a.dir))
		}
	}
	return problems
}

// durableCalls lists the uses of functions and methods that belong to
// internal/durable. Methods go by name and number of arguments: Sync() is a
// file's, Rename(a, b) an os.Root's.
func durableCalls(f file) (calls []string) {
	functions := map[string][]string{
		"os":                    {"Rename"},
		"syscall":               {"Flock", "FcntlFlock", "Fsync", "Fdatasync", "Rename", "Renameat", "Sync"},
		"golang.org/x/sys/unix": {"Flock", "FcntlFlock", "Fsync", "Fdatasync", "Rename", "Renameat", "Renameat2", "Sync", "Syncfs"},
	}
	methods := map[string]int{"Sync": 0, "Rename": 2}
	for n := range ast.Preorder(f.syntax) {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(functions[f.names[x.Name]], n.Sel.Name) {
				calls = append(calls, path.Base(f.names[x.Name])+"."+n.Sel.Name)
			}
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				continue
			}
			if x, ok := sel.X.(*ast.Ident); ok && f.names[x.Name] != "" {
				continue
			}
			if args, ok := methods[sel.Sel.Name]; ok && len(n.Args) == args {
				calls = append(calls, "."+sel.Sel.Name)
			}
		}
	}
	return calls
}

// checkDecided wants the pure files to be there and to be pure.
func checkDecided(paths []string, all []source) (problems []string) {
	for _, want := range paths {
		found := false
		for _, s := range all {
			for _, f := range s.files {
				if f.path == want {
					found = true
					problems = append(problems, impure(f)...)
				}
			}
		}
		if !found {
			problems = append(problems, want+" is not there: if it was renamed, say so in decided() in internal/archtest/table_test.go")
		}
	}
	return problems
}

func impure(f file) (problems []string) {
	for _, imp := range f.imports {
		if anyCovers(below(io("os", "context", "io", "log", "sync")), imp) {
			problems = append(problems, fmt.Sprintf("%s imports %s: the decision is pure", f.path, imp))
		}
	}
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
	for n := range ast.Preorder(f.syntax) {
		switch n := n.(type) {
		case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt:
			problems = append(problems, fmt.Sprintf("%s starts a goroutine or uses a channel: the decision is pure", f.path))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && f.names[x.Name] == "time" && slices.Contains(clock, n.Sel.Name) {
				problems = append(problems, fmt.Sprintf("%s reads the clock (time.%s): the decision is pure", f.path, n.Sel.Name))
			}
		}
	}
	return problems
}
