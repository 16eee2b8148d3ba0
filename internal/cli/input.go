package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// defaultFile is the specification that verbs read where -f names none.
const defaultFile = "backstay.yaml"

// input says which specification to read and with what values.
type input struct {
	file        string
	environment string
	set         []string
	envFile     string
}

// flags adds the flags that say it.
func (in *input) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&in.file, "file", "f", defaultFile, "the specification")
	f.StringVarP(&in.environment, "environment", "e", "", "lay environments/NAME.yaml over it")
	f.StringArrayVar(&in.set, "set", nil, "give an input: NAME=VALUE (repeatable)")
	f.StringVar(&in.envFile, "env-file", "", "read inputs from a file of NAME=VALUE lines")
}

// source checks the flags.
func (in *input) source(c *call) (spec.Source, error) {
	src := spec.Source{File: in.file, Environment: in.environment, EnvFile: in.envFile, Environ: c.app.getenv, Set: map[string]string{}}
	for _, pair := range in.set {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return src, usagef("--set %s: want NAME=VALUE", pair)
		}
		if _, twice := src.Set[name]; twice {
			return src, usagef("--set %s: given twice", name)
		}
		src.Set[name] = value
	}
	return src, nil
}

// load reads the specification. Whatever is wrong with it is a refusal.
func (in *input) load(c *call, kinds Kinds) (*spec.Spec, error) {
	src, err := in.source(c)
	if err != nil {
		return nil, err
	}
	loaded, err := spec.Load(src, kinds)
	var refused *backstay.RefusedError
	if err == nil || errors.As(err, &refused) {
		return loaded, err
	}
	return nil, &backstay.RefusedError{What: "spec", Err: err, Hint: backstay.HintOf(err)}
}

// declared gives a survey what it needs of a spec beside its steps. Artifacts
// are read, checked against their pinned digests, and put into blobs.
func declared(ctx context.Context, s *spec.Spec, blobs backstay.Blobs) (engine.Declared, error) {
	d := engine.Declared{
		Sections: map[string]json.RawMessage{}, Artifacts: map[string]backstay.Artifact{},
		Dir: s.Dir, Release: s.Release, Version: s.Version, Environment: s.Environment,
	}
	for name, section := range s.Sections {
		d.Sections[name] = absoluteSecrets(section, s.Dir)
	}
	var problems []backstay.Problem
	for _, name := range slices.Sorted(maps.Keys(s.Artifacts)) {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		a, problem := pinArtifact(s, name, blobs)
		if problem != nil {
			problem.File, problem.Path = s.File, "artifacts."+name
			problems = append(problems, *problem)
			continue
		}
		d.Artifacts[name] = a
	}
	if len(problems) > 0 {
		return d, &backstay.RefusedError{What: "artifact", Problems: problems}
	}
	return d, nil
}

// pinArtifact reads one artifact into blobs and compares its digest.
func pinArtifact(s *spec.Spec, name string, blobs backstay.Blobs) (backstay.Artifact, *backstay.Problem) {
	decl := s.Artifacts[name]
	file := decl.File
	if !filepath.IsAbs(file) {
		file = filepath.Join(s.Dir, file)
	}
	unreadable := func(err error) *backstay.Problem {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return &backstay.Problem{Message: fmt.Sprintf("%s cannot be read: %s", decl.File, err), Hint: "build it first; the path is relative to the specification"}
	}
	info, err := os.Stat(file)
	if err != nil {
		return backstay.Artifact{}, unreadable(err)
	}
	if !info.Mode().IsRegular() {
		return backstay.Artifact{}, unreadable(fmt.Errorf("it is not a regular file (%s)", info.Mode().Type()))
	}
	f, err := os.Open(file)
	if err != nil {
		return backstay.Artifact{}, unreadable(err)
	}
	defer f.Close()
	digest, size, err := blobs.Put(f)
	if err != nil {
		return backstay.Artifact{}, unreadable(err)
	}
	if decl.SHA256 != "" && decl.SHA256 != digest {
		return backstay.Artifact{}, &backstay.Problem{
			Message: fmt.Sprintf("%s is not what is pinned: it is sha256 %s, the specification says %s", decl.File, digest, decl.SHA256),
			Hint:    "build the pinned artifact, or pin the one that is there after looking at it",
		}
	}
	return backstay.Artifact{Name: name, File: file, SHA256: digest, Size: size}, nil
}

// requests are the draft's requests with references to secret files made
// absolute, so that whoever goes on with the plan elsewhere finds them.
func requests(d *plan.Draft) []plan.Request {
	out := d.Requests()
	for i := range out {
		out[i].Config = absoluteSecrets(out[i].Config, d.Spec().Dir)
	}
	return out
}

const secretFile = "secret:file/"

// absoluteSecrets makes relative secret:file references in a JSON document
// absolute. Anything else keeps its bytes.
func absoluteSecrets(doc json.RawMessage, dir string) json.RawMessage {
	if !bytes.Contains(doc, []byte(secretFile)) {
		return doc
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return doc
	}
	return backstay.Canonical(mapStrings(v, func(s string) string {
		path, ok := strings.CutPrefix(s, secretFile)
		if !ok || strings.HasPrefix(path, "/") {
			return s
		}
		return secretFile + filepath.Join(dir, path)
	}))
}

func mapStrings(v any, f func(string) string) any {
	switch v := v.(type) {
	case string:
		return f(v)
	case []any:
		for i := range v {
			v[i] = mapStrings(v[i], f)
		}
	case map[string]any:
		for k := range v {
			v[k] = mapStrings(v[k], f)
		}
	}
	return v
}

// scratch is a blob store in a temporary directory, for looking at what a plan
// would pin where no ledger is opened.
type scratch struct {
	dir   string
	files map[string]string
}

var _ backstay.Blobs = (*scratch)(nil)

// newScratch makes an empty one; remove takes it away.
func newScratch() (s *scratch, remove func(), err error) {
	dir, err := os.MkdirTemp("", "backstay-lint-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a scratch directory: %w", err)
	}
	return &scratch{dir: dir, files: map[string]string{}}, func() { _ = os.RemoveAll(dir) }, nil
}

// Put keeps content.
func (s *scratch) Put(r io.Reader) (digest string, size int64, err error) {
	f, err := os.CreateTemp(s.dir, "blob-")
	if err != nil {
		return "", 0, fmt.Errorf("keep content: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	if size, err = io.Copy(io.MultiWriter(f, sum), r); err != nil {
		return "", 0, fmt.Errorf("keep content: %w", err)
	}
	digest = hex.EncodeToString(sum.Sum(nil))
	s.files[digest] = f.Name()
	return digest, size, nil
}

// Has reports whether content is kept.
func (s *scratch) Has(digest string) (bool, error) {
	_, ok := s.files[digest]
	return ok, nil
}

// Get opens kept content.
func (s *scratch) Get(digest string) (io.ReadCloser, error) {
	name, ok := s.files[digest]
	if !ok {
		return nil, backstay.Classify(backstay.NotFound, fmt.Errorf("content %.12s is not kept", digest))
	}
	return os.Open(name)
}
