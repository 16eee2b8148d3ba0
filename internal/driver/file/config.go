package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
)

// Config is one `file:` step. Exactly one of From, Content, Template, Symlink,
// Tree and Absent says what shall stand at Path.
type Config struct {
	Path     string            `yaml:"path" json:"path" required:"true" doc:"absolute path, without symlinks in its directories" example:"/etc/shop/shop.conf"`
	From     string            `yaml:"from" json:"from,omitempty" doc:"file beside the spec whose content is written" example:"config/shop.conf"`
	Content  *string           `yaml:"content" json:"content,omitempty" doc:"the content itself, or a secret reference" example:"debug = false"`
	Template string            `yaml:"template" json:"template,omitempty" doc:"Go text/template beside the spec; {{.name}} is replaced from values" example:"config/shop.tmpl"`
	Values   map[string]string `yaml:"values" json:"values,omitempty" doc:"values of the template; each may be a secret reference"`
	Symlink  string            `yaml:"symlink" json:"symlink,omitempty" doc:"make path a symlink to this target" example:"releases/7"`
	Tree     string            `yaml:"tree" json:"tree,omitempty" doc:"directory beside the spec that is copied whole; permissions follow it" example:"dist/site"`
	Absent   bool              `yaml:"absent" json:"absent,omitempty" doc:"nothing shall stand at path"`
	Prune    bool              `yaml:"prune" json:"prune,omitempty" doc:"with tree or absent: also remove what else the directory holds"`
	Mode     string            `yaml:"mode" json:"mode,omitempty" doc:"octal permissions, quoted; default: the existing file's, else the source's, else 0644" example:"\"0644\""`
	Owner    string            `yaml:"owner" json:"owner,omitempty" doc:"user name or id; default: the existing file's, else the user that runs backstay" example:"www-data"`
	Group    string            `yaml:"group" json:"group,omitempty" doc:"group name or id" example:"www-data"`
	Mkdir    bool              `yaml:"mkdir" json:"mkdir,omitempty" doc:"create missing directories above path, mode 0755; the undo removes them when empty"`
	Validate []string          `yaml:"validate" json:"validate,omitempty" doc:"command that must accept the new content before it is put in place; {path} is where it can be read" example:"[nginx, -t, -c, \"{path}\"]"`
	Secret   bool              `yaml:"secret" json:"secret,omitempty" doc:"the content holds secrets: it is resolved at use, never stored, and path must be absent before"`
}

const (
	maxName = 255
	maxPath = 4095
)

// problems gathers what is wrong with a declaration.
type problems []backstay.Problem

func (p *problems) add(key, hint, format string, args ...any) {
	*p = append(*p, backstay.Problem{Path: key, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// addErr adds an error of the host with the hint that it carries.
func (p *problems) addErr(key string, err error) {
	p.add(key, backstay.HintOf(err), "%v", err)
}

func (p *problems) refusal() error {
	if len(*p) == 0 {
		return nil
	}
	return &backstay.RefusedError{What: "plan", Problems: *p}
}

// decode reads the declaration strictly.
func decode(raw json.RawMessage, p *problems) Config {
	var cfg Config
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(&cfg)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "mode":
		p.add("mode", `write it in quotes, such as "0644": a bare 0644 is another number to each YAML reader`, "mode is a %s, not a quoted string", wrong.Value)
	case errors.As(err, &wrong):
		p.add(wrong.Field, "put the value in quotes", "is a %s, want %s", wrong.Value, wrong.Type)
	case err != nil:
		p.add("", "", "read declaration: %v", err)
	}
	return cfg
}

// source names the one source that the declaration has, or "".
func (c Config) source(p *problems) string {
	var names []string
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"from", c.From != ""},
		{"content", c.Content != nil},
		{"template", c.Template != ""},
		{"symlink", c.Symlink != ""},
		{"tree", c.Tree != ""},
		{"absent", c.Absent},
	} {
		if s.set {
			names = append(names, s.name)
		}
	}
	if len(names) == 1 {
		return names[0]
	}
	if len(names) == 0 {
		p.add("", "give one of from, content, template, symlink, tree, absent", "says not what shall stand at path")
	} else {
		p.add(names[1], "keep one of them", "%s exclude each other", strings.Join(names, " and "))
	}
	return ""
}

// checkCombination refuses keys that mean nothing beside the source.
func (c Config) checkCombination(source string, p *problems) {
	only := func(set bool, key string, sources ...string) {
		for _, s := range sources {
			if s == source {
				return
			}
		}
		if set && source != "" {
			p.add(key, "", "%s means nothing with %s; it goes with %s", key, source, strings.Join(sources, ", "))
		}
	}
	only(c.Values != nil, "values", "template")
	only(c.Prune, "prune", "tree", "absent")
	only(c.Mode != "", "mode", "from", "content", "template", "tree")
	only(c.Owner != "", "owner", "from", "content", "template", "tree", "symlink")
	only(c.Group != "", "group", "from", "content", "template", "tree", "symlink")
	only(c.Mkdir, "mkdir", "from", "content", "template", "tree", "symlink")
	only(len(c.Validate) > 0, "validate", "from", "content", "template")
	only(c.Secret, "secret", "content", "template")
	if c.Symlink != "" {
		if why := badText(c.Symlink); why != "" {
			p.add("symlink", "", "target %q %s", c.Symlink, why)
		}
	}
}

// checkPath says what is wrong with an absolute target path, or "".
func checkPath(p string) string {
	switch {
	case p == "":
		return "is empty"
	case !path.IsAbs(p):
		return "is not absolute"
	case p == "/":
		return "is the whole host"
	case path.Clean(p) != p:
		return fmt.Sprintf("is not clean; write %q if that is meant", path.Clean(p))
	case len(p) > maxPath:
		return "is too long"
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > maxName {
			return fmt.Sprintf("has a name of %d bytes; file systems take %d", len(name), maxName)
		}
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if within(kernel, p) && !within("/dev/shm", p) {
			return "lies in " + kernel + ", which holds no files to restore"
		}
	}
	return badText(p)
}

// badText says what in a name could deceive a person or a system call, or "".
func badText(s string) string {
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	if len(s) > maxPath {
		return "is too long"
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return fmt.Sprintf("holds the control character %U", r)
		}
	}
	return ""
}

// checkRelative says what is wrong with a path below the spec's directory, or "".
func checkRelative(p string) string {
	switch {
	case filepath.IsAbs(p):
		return "is absolute; sources lie beside the spec"
	case !filepath.IsLocal(p):
		return "leaves the spec's directory"
	}
	return badText(p)
}

// within reports whether p is dir or lies below it. Both are clean.
func within(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// parseMode reads octal permissions; -1 where none are given.
func parseMode(text string, p *problems) int {
	if text == "" {
		return -1
	}
	bits, err := strconv.ParseUint(text, 8, 32)
	if err != nil || bits > 0o7777 || len(text) < 3 {
		p.add("mode", `three or four octal digits, such as "0644"`, "%q is no mode", text)
		return -1
	}
	return int(bits)
}

// lookUp resolves owner and group to ids; -1 where none is given.
func (c Config) lookUp(p *problems) (uid, gid int) {
	uid, gid = -1, -1
	if c.Owner != "" {
		if uid = number(c.Owner); uid < 0 {
			if u, err := user.Lookup(c.Owner); err != nil {
				p.add("owner", "create the user first, or give its id", "there is no user %q on this host", c.Owner)
			} else {
				uid = number(u.Uid)
			}
		}
		if os.Geteuid() != 0 && uid >= 0 && uid != os.Geteuid() {
			p.add("owner", "run backstay as root", "only root can give files to user %q", c.Owner)
		}
	}
	if c.Group != "" {
		if gid = number(c.Group); gid < 0 {
			if g, err := user.LookupGroup(c.Group); err != nil {
				p.add("group", "create the group first, or give its id", "there is no group %q on this host", c.Group)
			} else {
				gid = number(g.Gid)
			}
		}
	}
	return uid, gid
}

// number reads a numeric id; -1 where text is none.
func number(text string) int {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}
