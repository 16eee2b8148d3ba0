package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// definition is how instances of a service are started, frozen. Its canonical
// JSON is a blob; images refer to it by digest. Format 1.
type definition struct {
	V         int               `json:"v"`
	Name      string            `json:"name"`
	Release   string            `json:"release"` // SHA-256 of the artifact, also its blob address
	Format    format            `json:"format"`
	File      string            `json:"file"` // the artifact's base name
	Command   []string          `json:"command"`
	Env       map[string]string `json:"env,omitempty"` // values or secret references
	Instances int               `json:"instances"`
	Ready     ready             `json:"ready"`
	Drain     backstay.Duration `json:"drain"`
	Dir       string            `json:"dir,omitempty"`
	User      string            `json:"user,omitempty"`
}

// ready is how an instance is seen to be ready.
type ready struct {
	HTTP   string            `json:"http,omitempty"`
	TCP    bool              `json:"tcp,omitempty"`
	Run    []string          `json:"run,omitempty"`
	Within backstay.Duration `json:"within"`
}

const definitionFormat = 1

// body is the frozen step; format 1.
type body struct {
	V          int        `json:"v"`
	Definition definition `json:"definition"`
	Digest     string     `json:"digest"` // of the definition
	// Of a service with two sides: which one, how many of its instances (0: all),
	// and whether it is retired instead of started.
	Side   string `json:"side,omitempty"`
	Count  int    `json:"count,omitempty"`
	Retire bool   `json:"retire,omitempty"`
}

// name is what people call it: the service, or its side.
func (b body) name() string {
	if b.Side == "" {
		return b.Definition.Name
	}
	return b.Definition.Name + "." + b.Side
}

func (b body) key() backstay.Key { return keyOf(b.name()) }

func (b body) store(dataDir string) store { return openStore(dataDir, b.name()) }

// wanted is how many instances the step is to leave.
func (b body) wanted() int {
	if b.Count > 0 {
		return b.Count
	}
	return b.Definition.Instances
}

const bodyFormat = 1

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode service step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat || b.Definition.V != definitionFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode service step", Subject: step.ID,
			Err: fmt.Errorf("format %d", b.V), Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// store puts the definition into blobs and returns its digest.
func (d definition) store(blobs backstay.Blobs) (string, error) {
	digest, _, err := blobs.Put(bytes.NewReader(backstay.Canonical(d)))
	if err != nil {
		return "", fmt.Errorf("store definition of service %s: %w", d.Name, err)
	}
	return digest, nil
}

// maxDefinition bounds a stored definition.
const maxDefinition = 4 << 20

func loadDefinition(blobs backstay.Blobs, digest string) (d definition, err error) {
	if blobs == nil {
		return d, errors.New("load service definition: there is no stored content here")
	}
	r, err := blobs.Get(digest)
	if err != nil {
		return d, fmt.Errorf("load service definition: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := json.NewDecoder(io.LimitReader(r, maxDefinition)).Decode(&d); err != nil {
		return d, fmt.Errorf("load service definition %.12s: %w", digest, err)
	}
	if d.V != definitionFormat {
		return d, &backstay.Error{
			Class: backstay.Permanent, Op: "load service definition", Subject: digest[:12],
			Err: fmt.Errorf("format %d", d.V), Hint: "use the backstay version that made it",
		}
	}
	return d, nil
}

// factOf reads a state; false for that of a service that was never started.
func factOf(state backstay.ResourceState) (f fact, present bool, err error) {
	value, ok := state.Parts[""]
	if !ok {
		return f, false, nil
	}
	if err := json.Unmarshal(value, &f); err != nil {
		return f, false, fmt.Errorf("read service state: %w", err)
	}
	return f, true, nil
}

func (d definition) drain() time.Duration { return d.Drain.Std() }

// usesPort reports whether an instance is told a port.
func (d definition) usesPort() bool { return d.uses("{port}") }

func (d definition) uses(placeholder string) bool {
	for _, a := range d.Command {
		if strings.Contains(a, placeholder) {
			return true
		}
	}
	for _, v := range d.Env {
		if strings.Contains(v, placeholder) {
			return true
		}
	}
	return false
}

// expander puts an instance's values for placeholders.
func (d definition) expander(releaseDir string, port, instance int) *strings.Replacer {
	artifact := releaseDir
	if d.Format == plain {
		artifact = path.Join(releaseDir, d.File)
	}
	return strings.NewReplacer(
		"{artifact}", artifact, "{release-dir}", releaseDir,
		"{port}", strconv.Itoa(port), "{instance}", strconv.Itoa(instance),
	)
}

// unknownPlaceholder finds {word} that is none of the placeholders.
func unknownPlaceholder(s string) (string, bool) {
	for {
		_, rest, found := strings.Cut(s, "{")
		if !found {
			return "", false
		}
		word, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", false
		}
		switch word {
		case "artifact", "release-dir", "port", "instance":
			s = after
			continue
		}
		if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz-_") == "" {
			return "{" + word + "}", true
		}
		s = rest
	}
}
