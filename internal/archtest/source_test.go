package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// file is one parsed source file.
type file struct {
	path      string // relative to the module
	syntax    *ast.File
	test      bool
	generated bool
	lines     int
	imports   []string
	// names maps the local name of each import to its path.
	names map[string]string
}

// source is one folder with Go files.
type source struct {
	dir   string // "" is the root
	files []file
}

// load parses every Go file of the module below fsys. Folders that the go tool
// ignores, other modules and built things are left out.
func load(fsys fs.FS) ([]source, error) {
	byDir := map[string]*source{}
	fset := token.NewFileSet()
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skip(fsys, p)
		}
		if path.Ext(p) != ".go" {
			return nil
		}
		f, err := parse(fset, fsys, p)
		if err != nil {
			return err
		}
		dir := path.Dir(p)
		if dir == "." {
			dir = ""
		}
		if byDir[dir] == nil {
			byDir[dir] = &source{dir: dir}
		}
		byDir[dir].files = append(byDir[dir].files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []source
	for _, s := range byDir {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b source) int { return strings.Compare(a.dir, b.dir) })
	return all, nil
}

func skip(fsys fs.FS, dir string) error {
	if dir == "." {
		return nil
	}
	base := path.Base(dir)
	if base == "testdata" || base == "bin" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := fs.Stat(fsys, path.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parse(fset *token.FileSet, fsys fs.FS, p string) (file, error) {
	text, err := fs.ReadFile(fsys, p)
	if err != nil {
		return file{}, err
	}
	syntax, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, fmt.Errorf("parse %s: %w", p, err)
	}
	f := file{
		path: p, syntax: syntax,
		test:      strings.HasSuffix(p, "_test.go"),
		generated: ast.IsGenerated(syntax),
		lines:     bytes.Count(text, []byte("\n")),
		names:     map[string]string{},
	}
	for _, spec := range syntax.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, fmt.Errorf("parse import of %s: %w", p, err)
		}
		f.imports = append(f.imports, imp)
		name := path.Base(imp)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		f.names[name] = imp
	}
	return f, nil
}

// name is the package's name, without the _test of external tests.
func (s source) name() string {
	for _, f := range s.files {
		if !f.test {
			return f.syntax.Name.Name
		}
	}
	return strings.TrimSuffix(s.files[0].syntax.Name.Name, "_test")
}
