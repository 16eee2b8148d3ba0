package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// overlayDir holds the overlays, beside the file.
const overlayDir = "environments"

// Load reads and checks the specification that src names. What is wrong with
// it is a *backstay.RefusedError with all problems; a file that cannot be read
// is a *backstay.Error.
func Load(src Source, kinds Kinds) (*Spec, error) {
	data, err := readFile(src.File, "name the file with -f, or run `backstay init` for a first one")
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(src.File))
	if err != nil {
		return nil, &backstay.Error{Class: backstay.Permanent, Op: "find the directory of", Subject: src.File, Err: err}
	}
	ps := &problems{}
	in := newInputs(ps, src)
	if src.EnvFile != "" {
		env, err := readFile(src.EnvFile, "--env-file names a file of NAME=VALUE lines")
		if err != nil {
			return nil, err
		}
		in.readEnvFile(src.EnvFile, env)
	}
	root := compose(newSource(src.File, orderBase, data), ps)
	over, err := loadOverlay(&src, root, ps)
	if err != nil {
		return nil, err
	}
	spec, err := parse(root, over, src, in, kinds, ps)
	if err != nil {
		return nil, err
	}
	spec.File, spec.Dir = src.File, dir
	return spec, nil
}

// Parse is Load without files: base is the specification, overlay (or nil) the
// environment's, and src gives Environment, Set and Environ. File and Dir of
// the result are empty.
func Parse(base Text, overlay *Text, src Source, kinds Kinds) (*Spec, error) {
	ps := &problems{}
	in := newInputs(ps, src)
	root := compose(newSource(base.Name, orderBase, base.Data), ps)
	var over *node
	if overlay != nil {
		over = compose(newSource(overlay.Name, orderOverlay, overlay.Data), ps)
	}
	return parse(root, over, src, in, kinds, ps)
}

func parse(root, over *node, src Source, in *inputs, kinds Kinds, ps *problems) (*Spec, error) {
	if message := badName(src.Environment); src.Environment != "" && message != "" {
		ps.at(nil, 0, 0, "-e", message, nameHint)
	}
	if root == nil {
		return nil, ps.err()
	}
	if over != nil {
		root = merge(root, over, ps)
	}
	return build(root, in, src, withRelease(kinds), ps)
}

// loadOverlay reads the overlay of the environment that -e or else the file
// itself names. Only -e demands that there is one, and not for dev.
func loadOverlay(src *Source, root *node, ps *problems) (*node, error) {
	name := src.Environment
	if name == "" {
		if own := root.get("environment"); own != nil && own.shape == scalar {
			name = own.text
		}
	}
	if name == "" || badName(name) != "" {
		return nil, nil
	}
	dir := filepath.Join(filepath.Dir(src.File), overlayDir)
	file := filepath.Join(dir, name+".yaml")
	data, err := readFile(file, "")
	if err == nil {
		return compose(newSource(file, orderOverlay, data), ps), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if src.Environment != "" && name != devEnvironment {
		available := environments(dir)
		hint := "the environments are: " + list(available)
		if len(available) == 0 {
			hint = "there is no " + filepath.Join(overlayDir, name+".yaml") + " beside the file"
		}
		ps.at(nil, 0, 0, "-e", "no environment is called "+quote(name), orHint(ps.suggest(name, available), hint))
	}
	return nil, nil
}

// environments lists the overlays in a directory.
func environments(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && badName(name) == "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// readFile reads a regular file up to a byte more than the limit, so that the
// parser refuses a larger one without holding it.
func readFile(name, missing string) ([]byte, error) {
	fail := func(err error) error {
		e := &backstay.Error{Class: backstay.Permanent, Op: "read", Subject: name, Err: err}
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			e.Err = pathErr.Err
		}
		if errors.Is(err, fs.ErrNotExist) {
			e.Class, e.Hint = backstay.NotFound, missing
		}
		return e
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fail(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fail(fmt.Errorf("not a regular file (%s)", info.Mode().Type()))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fail(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fail(err)
	}
	return data, nil
}
