package spec

import (
	"encoding/json"

	"github.com/backstay-dev/backstay"
)

// Format is the version of the file format that this package reads.
const Format = "v1"

// Kinds is what spec needs to know of the step kinds. Config and CheckConfig
// return a pointer to a new struct whose tags (yaml, doc, example, enum, ref,
// required) describe all keys of such a step or check except the common ones:
// beside one another where the struct has a key of the kind's name (run: …,
// undo: …), else all below that name (file: {path: …}).
// Sections maps a top-level key to a pointer to the struct of one entry.
type Kinds interface {
	Names() []string
	Config(kind string) (any, bool)
	CheckNames() []string
	CheckConfig(kind string) (any, bool)
	Sections() map[string]any
}

// Source says what to read. Values given by Set win over the EnvFile, which
// wins over Environ.
type Source struct {
	File        string // path of backstay.yaml
	Environment string // -e NAME: overlays environments/NAME.yaml beside File
	Set         map[string]string
	EnvFile     string
	// Environ looks up the process environment. It is asked only for names that
	// the file uses as ${NAME} or declares with `from: environment`. Nil: none.
	Environ func(string) (string, bool)
}

// Text is one YAML document and the name that problems give it.
type Text struct {
	Name string
	Data []byte
}

// Spec is a checked specification: inputs substituted, overlay merged, the
// order of steps resolved.
type Spec struct {
	Format string `json:"format"`
	File   string `json:"-"` // as it was given
	Dir    string `json:"-"` // absolute directory of File: relative paths start here
	// Digest is the SHA-256 of the spec's canonical JSON. It does not depend on
	// where the file lies, its comments, key order or line numbers.
	Digest string `json:"digest"`

	Release     string `json:"release"`
	Version     string `json:"version,omitempty"`
	Owner       string `json:"owner,omitempty"`
	Environment string `json:"environment,omitempty"`

	Inputs    []Input                    `json:"inputs,omitempty"` // used or declared ones, by name
	Artifacts map[string]ArtifactDecl    `json:"artifacts,omitempty"`
	Sections  map[string]json.RawMessage `json:"sections,omitempty"` // section → {entry: config}
	Stages    []Stage                    `json:"stages,omitempty"`
	Steps     []Step                     `json:"steps"`           // in an order that satisfies Needs
	Gates     []Gate                     `json:"gates,omitempty"` // by name
	Verify    []Check                    `json:"verify,omitempty"`
	Bake      Bake                       `json:"bake"`
	Rollback  Rollback                   `json:"rollback"`
	Policy    Policy                     `json:"policy"`

	Mitigations []Mitigation `json:"mitigations,omitempty"` // by name
	Mitigates   *Mitigates   `json:"mitigates,omitempty"`   // of a mitigation's own spec

	// Merged is the YAML that the spec was decoded from: file and overlay
	// merged, inputs put in, without the inputs section. Render prints it.
	Merged []byte `json:"-"`
}

// InputSource says where an input's value came from.
type InputSource string

// The sources of inputs, strongest first.
const (
	FromSet         InputSource = "set"
	FromEnvFile     InputSource = "env-file"
	FromEnvironment InputSource = "environment"
)

// Input is a value from outside the file, as it was used.
type Input struct {
	Name   string      `json:"name"`
	Value  string      `json:"value"`
	Source InputSource `json:"source"`
}

// InputDecl declares an input under `inputs:`.
type InputDecl struct {
	Doc      string   `yaml:"doc" json:"doc,omitempty" doc:"What the input is for, in one line." example:"The version to deploy"`
	Pattern  string   `yaml:"pattern" json:"pattern,omitempty" doc:"Regular expression (RE2) that the whole value must match." example:"'[0-9]+\\.[0-9]+'"`
	OneOf    []string `yaml:"one-of" json:"one_of,omitempty" doc:"The only values allowed." example:"[blue, green]"`
	Required *bool    `yaml:"required" json:"required,omitempty" doc:"Whether a value must be given even where the input is not used. True unless said otherwise." example:"false"`
	From     string   `yaml:"from" json:"from,omitempty" enum:"set,env-file,environment" doc:"The only source that may give the value." example:"environment"`
}

// ArtifactDecl declares a file that the release ships. SHA256 is lower-case
// hex; it is empty only in the environment "dev".
type ArtifactDecl struct {
	File   string `yaml:"file" json:"file" required:"true" doc:"Path of the file, relative to backstay.yaml." example:"dist/shop-web"`
	SHA256 string `yaml:"sha256" json:"sha256,omitempty" doc:"SHA-256 of the file in hex, as sha256sum prints it. Required outside the environment dev." example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
}

// Stage is a named group of steps with its own rollback boundary. Within is
// zero where the stage declares no deadline of its own.
type Stage struct {
	Name   string            `json:"name"`
	Within backstay.Duration `json:"within,omitzero"`
}

// Step is one declared step. Needs are IDs of steps that stand before it.
// Zero timeouts and nil Retries mean the kind's defaults.
type Step struct {
	ID          string            `json:"id"`
	Kind        string            `json:"kind"`
	Stage       string            `json:"stage,omitempty"`
	Needs       []string          `json:"needs,omitempty"`
	Timeout     backstay.Duration `json:"timeout,omitzero"`
	UndoTimeout backstay.Duration `json:"undo_timeout,omitzero"`
	Retries     *int              `json:"retries,omitempty"`
	// Config is the canonical JSON of the kind's config struct.
	Config json.RawMessage `json:"config"`
	Line   int             `json:"-"`
	Column int             `json:"-"`
}

// Check is one entry of `verify:`. Within zero means: ask once; else it is
// asked again after each Every until it passes or Within is over.
type Check struct {
	ID      string            `json:"id"`
	Kind    string            `json:"kind"`
	Within  backstay.Duration `json:"within,omitzero"`
	Every   backstay.Duration `json:"every"`
	Timeout backstay.Duration `json:"timeout,omitzero"`
	Config  json.RawMessage   `json:"config"`
	Line    int               `json:"-"`
	Column  int               `json:"-"`
}

// Bake says how long the verify checks are watched after the commit, how
// often, and how many failures in a row end it. For zero: no bake.
type Bake struct {
	For      backstay.Duration `json:"for,omitzero"`
	Every    backstay.Duration `json:"every"`
	Failures int               `json:"failures"`
}

// Rollback bounds the undo of the whole deployment. Within zero: unbounded.
type Rollback struct {
	Within backstay.Duration `json:"within,omitzero"`
}

// Policy is what the spec demands of the people around a deployment.
type Policy struct {
	NotAuthor bool     `yaml:"not-author" json:"not_author,omitempty" doc:"Who starts the deployment may not approve it." example:"true"`
	Require   *Require `yaml:"require" json:"require,omitempty" doc:"Evidence without which nothing is deployed."`
}

// Require is the evidence that must be there before a deployment begins.
type Require struct {
	Drill *DrillPolicy `yaml:"drill" json:"drill,omitempty" doc:"A drill of exactly the plan that is deployed (backstay drill). Without it deploy is refused."`
}

// DrillPolicy says which drill is good enough.
type DrillPolicy struct {
	MaxAge backstay.Duration `yaml:"max-age" json:"max_age" required:"true" doc:"How old it may be. A drill is evidence for 14d at most." example:"14d"`
	Failed int               `yaml:"failed" json:"failed" doc:"How many of its cells may have failed or hung. Default: 0." example:"0"`
}
