package mutant

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// variable holds the number of the mutant that a process is; it reaches the
// children that tests start.
const variable = "BACKSTAY_MUTANT"

// switched puts mutants of one file into its text, each as a copy of the function
// that it is in, with a switch in front of the function itself. So one build has
// them all, and a process is one of them, or none. A mutant's number is its place
// in the table.
func switched(text []byte, numbers []int, table []mutant) ([]byte, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse the file of %q: %w", table[numbers[0]].name, err)
	}
	at := func(p token.Pos) int { return files.Position(p).Offset }
	switches := map[int]string{} // by the offset of a body's first byte
	var copies strings.Builder
	for _, n := range numbers {
		m := table[n]
		begins := bytes.Index(text, []byte(m.old))
		f := around(file, at, begins, begins+len(m.old))
		if f == nil {
			return nil, fmt.Errorf("%q is not within the body of one function", m.name)
		}
		call, head, err := copied(f, n, func(e ast.Node) string { return string(text[at(e.Pos()):at(e.End())]) })
		if err != nil {
			return nil, fmt.Errorf("%q: %w", m.name, err)
		}
		body := at(f.Body.Lbrace)
		switches[body+1] += fmt.Sprintf("\nif mutantNow == %d { %s }\n", n, call)
		fmt.Fprintf(&copies, "\n%s %s\n", head, bytes.Replace(text[body:at(f.Body.Rbrace)+1], []byte(m.old), []byte(m.new), 1))
	}
	var out bytes.Buffer
	last := 0
	for _, offset := range slices.Sorted(maps.Keys(switches)) {
		out.Write(text[last:offset])
		out.WriteString(switches[offset])
		last = offset
	}
	out.Write(text[last:])
	out.WriteString(copies.String())
	return out.Bytes(), nil
}

// around is the function whose body holds all of a range of the file.
func around(file *ast.File, at func(token.Pos) int, from, to int) *ast.FuncDecl {
	for _, d := range file.Decls {
		if f, is := d.(*ast.FuncDecl); is && f.Body != nil && at(f.Body.Lbrace) < from && to <= at(f.Body.Rbrace) {
			return f
		}
	}
	return nil
}

// copied is how a function calls its copy, and the copy's head.
func copied(f *ast.FuncDecl, n int, text func(ast.Node) string) (call, head string, err error) {
	if f.Type.TypeParams != nil {
		return "", "", fmt.Errorf("%s is generic, and a copy of such a function is not made", f.Name.Name)
	}
	arguments, err := names(f.Type.Params, f.Name.Name)
	if err != nil {
		return "", "", err
	}
	name := f.Name.Name + "Mutant" + strconv.Itoa(n)
	_, signature, _ := strings.Cut(text(f.Type), f.Name.Name+"(")
	call, head = name, "func "+name+"("+signature
	if f.Recv != nil {
		receiver, err := names(f.Recv, f.Name.Name)
		if err != nil {
			return "", "", err
		}
		call, head = receiver[0]+"."+name, "func "+text(f.Recv)+" "+name+"("+signature
	}
	call += "(" + strings.Join(arguments, ", ") + ")"
	if f.Type.Results == nil {
		return call + "; return", head, nil
	}
	return "return " + call, head, nil
}

// names are those by which a function passes its own parameters on.
func names(list *ast.FieldList, of string) ([]string, error) {
	var all []string
	for _, p := range list.List {
		dots := ""
		if _, many := p.Type.(*ast.Ellipsis); many {
			dots = "..."
		}
		if len(p.Names) == 0 {
			return nil, fmt.Errorf("a parameter of %s has no name to pass it on by", of)
		}
		for _, name := range p.Names {
			if name.Name == "_" {
				return nil, fmt.Errorf("a parameter of %s has no name to pass it on by", of)
			}
			all = append(all, name.Name+dots)
		}
	}
	return all, nil
}

// register is the file that tells a package which mutant its process is.
func register(pkg string) []byte {
	return fmt.Appendf(nil, `package %s

import (
	"os"
	"strconv"
)

// mutantNow is -1 where the process is none.
var mutantNow = func() int {
	if n, err := strconv.Atoi(os.Getenv(%q)); err == nil {
		return n
	}
	return -1
}()
`, path.Base(pkg), variable)
}

// TestSwitched keeps each copy a copy: what it is called with, and where it is switched.
func TestSwitched(t *testing.T) {
	t.Parallel()
	text := []byte(`package p

const outside = "a const"

type t struct{}

func (x *t) m(a, b int, rest ...string) (int, error) {
	if a > b {
		return a, nil
	}
	return len(rest), nil
}

func f(a int) { println(a) }

func g(int) { println("unnamed") }

func h[T any](x T) { println("generic", x) }
`)
	table := []mutant{
		{name: "one", old: "a > b", new: "a < b"},
		{name: "two", old: "return len(rest), nil", new: "return 0, nil"},
		{name: "three", old: "println(a)", new: ""},
		{name: "outside", old: `"a const"`},
		{name: "unnamed", old: `"unnamed"`},
		{name: "generic", old: `"generic"`},
		{name: "two functions", old: "}\n\nfunc f"},
	}
	got, err := switched(text, []int{0, 1, 2}, table)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"{\nif mutantNow == 0 { return x.mMutant0(a, b, rest...) }\n\nif mutantNow == 1 { return x.mMutant1(a, b, rest...) }\n\n\tif a > b {",
		"func (x *t) mMutant0(a, b int, rest ...string) (int, error) {\n\tif a < b {\n\t\treturn a, nil\n\t}\n\treturn len(rest), nil\n}",
		"func (x *t) mMutant1(a, b int, rest ...string) (int, error) {\n\tif a > b {\n\t\treturn a, nil\n\t}\n\treturn 0, nil\n}",
		"func f(a int) {\nif mutantNow == 2 { fMutant2(a); return }\n println(a) }",
		"func fMutant2(a int) {  }",
	} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("not there: %q in\n%s", want, got)
		}
	}
	for n := 3; n < len(table); n++ {
		if _, err := switched(text, []int{n}, table); err == nil {
			t.Errorf("%q was put in; it cannot be", table[n].name)
		}
	}
}
