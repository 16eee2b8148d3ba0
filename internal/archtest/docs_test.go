package archtest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The table stands between these lines in ARCHITECTURE.md.
const (
	tableBegins = "<!-- import table: written by `make generate`, checked by internal/archtest -->\n"
	tableEnds   = "<!-- end of the import table -->\n"
)

// render is the table as Markdown. Kinds that have the same row share it.
func render(rows []row) string {
	var b strings.Builder
	b.WriteString("| package | may import | what it is |\n|---|---|---|\n")
	for i := 0; i < len(rows); i++ {
		names := []string{cell(rows[i].dir)}
		for i+1 < len(rows) && isKind(rows[i]) && isKind(rows[i+1]) && mays(rows[i]) == mays(rows[i+1]) {
			i++
			names = append(names, cell(rows[i].dir))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.Join(names, " "), mays(rows[i]), rows[i].is)
	}
	return b.String()
}

func isKind(r row) bool { return slices.Contains(kindDirs(), r.dir) }

func mays(r row) string {
	switch {
	case len(r.may) == 1 && r.may[0] == "*":
		return "anything"
	case r.alone:
		return strings.Join(append([]string{"the standard library only"}, quoted(r.third)...), ", ")
	case len(r.may) == 0:
		return "nothing else of ours"
	}
	others := slices.DeleteFunc(slices.Clone(r.may), func(dir string) bool { return slices.Contains(kindDirs(), dir) })
	cells := quoted(others)
	switch kinds := len(r.may) - len(others); {
	case kinds > 1:
		cells = append(cells, "every kind")
	case kinds == 1:
		cells = append(cells, "its own kind")
	}
	return strings.Join(cells, " ")
}

func quoted(dirs []string) []string {
	cells := make([]string, len(dirs))
	for i, d := range dirs {
		cells[i] = cell(d)
	}
	return cells
}

func cell(dir string) string {
	if dir == "" {
		return "root"
	}
	return "`" + strings.TrimPrefix(dir, "internal/") + "`"
}

// splice puts the table into the document.
func splice(doc, tbl string) (string, error) {
	head, rest, ok := strings.Cut(doc, tableBegins)
	_, tail, ok2 := strings.Cut(rest, tableEnds)
	if !ok || !ok2 {
		return "", fmt.Errorf("splice import table: the lines %q and %q are not there", tableBegins, tableEnds)
	}
	return head + tableBegins + tbl + tableEnds + tail, nil
}

// checkDependencies wants each module that the sources import to have its line
// in the decision on dependencies, and each line there to be a module that
// go.mod requires.
func checkDependencies(goMod, decision string, all []source) (problems []string) {
	var required []string
	for _, m := range regexp.MustCompile(`(?m)^(?:require)?\s+(\S+) v\S+`).FindAllStringSubmatch(goMod, -1) {
		required = append(required, m[1])
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(decision, -1) {
		listed = append(listed, m[1])
	}
	for _, m := range listed {
		if !slices.Contains(required, m) {
			problems = append(problems, fmt.Sprintf("docs/decisions/0002-dependencies.md lists %s, which go.mod does not require: remove the line", m))
		}
	}
	missing := map[string]string{}
	for _, s := range all {
		for _, f := range s.files {
			for _, imp := range f.imports {
				if m := owner(required, imp); m != "" && !slices.Contains(listed, m) {
					missing[m] = f.path
				}
			}
		}
	}
	for m, p := range missing {
		problems = append(problems, fmt.Sprintf("%s imports %s, which has no line in docs/decisions/0002-dependencies.md: add one that says why", p, m))
	}
	slices.Sort(problems)
	return problems
}

// owner is the module that holds the package, "" for the standard library and ours.
func owner(modules []string, imp string) (best string) {
	for _, m := range modules {
		if covers(m+"/...", imp) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
