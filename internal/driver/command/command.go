// Package command is the step kind "run": a command or shell script of the
// user's. It owns the line (a command as the spec holds it), the pinned script
// (the copy of a script file taken when the plan was made) and the three
// commands that make a script reversible: undo, read and probe.
//
// How a step is put back, and the class it so gets:
//
//	touches             the named paths are restored from before-images: exact
//	touches, undo       the undo command runs, then the paths are restored; the
//	                    rest cannot be read back: compensated
//	undo, read          the undo command runs, and what read prints must be as
//	                    before: equivalent, as far as the read command sees
//	undo                the undo command runs: compensated
//	irreversible        nothing; runs only after an approval
//
// Read with touches (and undo) makes the step equivalent. Before-images are
// restored part by part, so an outsider's later change is kept.
//
// Every command runs with an explicit environment, in a known directory, as a
// watched run of package proc: when it is late, or Backstay dies, everything
// that it started is ended. Nothing that a command prints gets into an error.
//
// It is no sandbox: a command can change what its step does not declare.
package command

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Driver is the kind. It has no state; methods are safe for concurrent use.
type Driver struct{}

var (
	_ driver.Kind      = (*Driver)(nil)
	_ driver.Prober    = (*Driver)(nil)
	_ driver.Checker   = (*Driver)(nil)
	_ driver.Reaper    = (*Driver)(nil)
	_ driver.Sandboxer = (*Driver)(nil)
)

// New returns the kind.
func New() *Driver { return &Driver{} }

// Name is "run".
func (*Driver) Name() string { return "run" }

// Config returns a step's keys.
func (*Driver) Config() any { return &stepConfig{} }

// CheckConfig returns a verify entry's keys.
func (*Driver) CheckConfig() any { return &checkConfig{} }

// Line is one command: a text for the shell, or a program with its arguments.
type Line struct {
	Shell string
	Argv  []string
}

// SpecShell says that the text form is a script: inputs in it must be plain words.
func (Line) SpecShell() {}

// SpecShape says how a line is written.
func (Line) SpecShape() []string { return []string{"string", "strings"} }

// UnmarshalJSON reads a text or a list of texts.
func (l *Line) UnmarshalJSON(data []byte) error {
	*l = Line{}
	if len(data) > 0 && data[0] == '[' {
		if err := json.Unmarshal(data, &l.Argv); err != nil {
			return fmt.Errorf("want a list of texts: %w", err)
		}
		return nil
	}
	if err := json.Unmarshal(data, &l.Shell); err != nil {
		return fmt.Errorf("want a command line or a list of texts: %w", err)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (l Line) MarshalJSON() ([]byte, error) {
	if l.Argv != nil {
		return json.Marshal(l.Argv) //nolint:wrapcheck // cannot fail
	}
	return json.Marshal(l.Shell) //nolint:wrapcheck // cannot fail
}

// String is the line in one line, shortened, for people.
func (l Line) String() string {
	text := l.Shell
	if l.Argv != nil {
		text = strings.Join(l.Argv, " ")
	}
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 80 {
		text = string(runes[:79]) + "…"
	}
	return text
}

// stepConfig are the keys of a run step.
type stepConfig struct {
	Run  Line  `yaml:"run" json:"run" required:"true" doc:"What to run: a shell script (by sh -euc), or a list of a program and its arguments, which no shell sees. It gets at most 4096 processes and threads at once where the host lets Backstay bound them (see SECURITY.md)." example:"./warm-cache.sh"`
	Undo *Line `yaml:"undo" json:"undo,omitempty" doc:"The command that takes it back. It also runs after a run that stopped half-way, and perhaps twice: it must bear that." example:"./drop-cache.sh"`
	Read *Line `yaml:"read" json:"read,omitempty" doc:"A command that changes nothing and prints the state that run changes, the same text for the same state, at most 1 MiB, no secrets. With it Backstay can tell whether the step was done and whether its undo worked." example:"./cache-version.sh"`

	Probe *Line `yaml:"probe" json:"probe,omitempty" doc:"A command that tells, after a crash, whether run was done: exit status 0 yes, 1 no, anything else unknown. It changes nothing." example:"[./cache-warm-p]"`

	Env     map[string]string `yaml:"env" json:"env,omitempty" doc:"Variables for all commands of the step. They get no others but PATH and some that begin with BACKSTAY_. A value may be a secret reference." example:"{LANG: C.UTF-8, TOKEN: \"secret:env/TOKEN\"}"`
	PassEnv []string          `yaml:"pass-env" json:"pass-env,omitempty" doc:"Variables to take over from the environment that backstay runs in." example:"[HOME, SSH_AUTH_SOCK]"`
	Dir     string            `yaml:"dir" json:"dir,omitempty" doc:"The working directory. Default: where the specification lies." example:"/srv/shop"`

	Touches []string `yaml:"touches" json:"touches,omitempty" doc:"All paths that run changes. Backstay keeps them as they were before and restores them to undo the step. What it could not restore is refused when the plan is made." example:"[/etc/shop, /var/www/shop]"`
	Ignore  []string `yaml:"ignore" json:"ignore,omitempty" doc:"What below the touched paths to leave alone: patterns on names relative to each path, where * does not match a slash." example:"[cache, \"*.log\"]"`

	Irreversible string `yaml:"irreversible" json:"irreversible,omitempty" doc:"Why this cannot be undone. Such a step waits for an approval and is the point of no return." example:"mails are sent to customers"`
	Idempotent   bool   `yaml:"idempotent" json:"idempotent,omitempty" doc:"Running it twice is the same as running it once, also when the first time stopped half-way. Then Backstay may run it again." example:"true"`
	Background   bool   `yaml:"background" json:"background,omitempty" doc:"Processes that a successful run leaves behind stay (it starts a daemon). Without this they are ended with it. Their output must not go to the terminal." example:"true"`
}

// checkConfig are the keys of a verify entry.
type checkConfig struct {
	Run     Line              `yaml:"run" json:"run" required:"true" doc:"A shell script, or a list of a program and its arguments. Exit status 0 passes, any other fails." example:"./smoke.sh"`
	Env     map[string]string `yaml:"env" json:"env,omitempty" doc:"Variables for the command. It gets no others but PATH and some that begin with BACKSTAY_. A value may be a secret reference." example:"{LANG: C.UTF-8}"`
	PassEnv []string          `yaml:"pass-env" json:"pass-env,omitempty" doc:"Variables to take over from the environment that backstay runs in." example:"[HOME]"`
	Dir     string            `yaml:"dir" json:"dir,omitempty" doc:"The working directory. Default: where the specification lies." example:"/srv/shop"`
}

// body is the frozen step; format 1.
type body struct {
	V          int               `json:"v"`
	Run        line              `json:"run"`
	Undo       *line             `json:"undo,omitempty"`
	Read       *line             `json:"read,omitempty"`
	Probe      *line             `json:"probe,omitempty"`
	Env        map[string]string `json:"env,omitempty"` // values or references
	PassEnv    []string          `json:"pass_env,omitempty"`
	Dir        string            `json:"dir"`
	Touches    []string          `json:"touches,omitempty"`
	Ignore     []string          `json:"ignore,omitempty"`
	Background bool              `json:"background,omitempty"`
}

const bodyFormat = 1

// line is a Line with the script that its first word names, if it does.
type line struct {
	Line Line `json:"line"`
	Pin  *pin `json:"pin,omitempty"`
}

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode run step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode run step", Subject: step.ID,
			Err: fmt.Errorf("format %d", b.V), Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// keyOf names what a step does outside its touched paths. The release is part
// of it: two releases may each have a step of the same name.
func keyOf(release, id string) backstay.Key { return backstay.Key("run:" + release + "/" + id) }

// ownKey is the key that stands for what lies outside the touched paths. It is
// looked for, not made: a step that takes another one back has a name of its
// own and that one's keys.
func ownKey(step backstay.Step) (backstay.Key, bool) {
	i := slices.IndexFunc(step.Keys, func(k backstay.Key) bool { return k.Kind() == "run" })
	if i < 0 {
		return "", false
	}
	return step.Keys[i], true
}

// Sandbox allows every step: what its commands do to files and processes stays
// in the view, and the network is not there.
func (*Driver) Sandbox(backstay.Step) error { return nil }
