package spec

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const inputNameHint = "an input's name is A-Z, then A-Z, 0-9 and _"

// isInputName reports whether s may stand in ${…}.
func isInputName(s string) bool {
	for i := range len(s) {
		c := s[i]
		upper := c >= 'A' && c <= 'Z'
		if !upper && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// isSecretName reports whether a name promises a value that must not be
// recorded, as every input is.
func isSecretName(s string) bool {
	s = strings.ToLower(s)
	for _, word := range []string{"password", "passwd", "token", "secret", "key", "credential"} {
		if strings.Contains(s, word) {
			return true
		}
	}
	return false
}

// given is one value with the place that gave it.
type given struct {
	value string
	from  InputSource
	src   *source // of the env-file
	line  int
}

// inputs resolves ${NAME}. Values never change structure: they are put into
// scalars after the YAML was read, and are not looked at again.
type inputs struct {
	ps      *problems
	set     map[string]string
	file    map[string]given
	environ func(string) (string, bool)
	decl    map[string]InputDecl
	declAt  map[string]*node

	patterns map[string]*regexp.Regexp // of the declarations, anchored

	known map[string]*given // names asked for; nil: no value
	done  map[*node]bool
	bytes int
}

func newInputs(ps *problems, src Source) *inputs {
	return &inputs{
		ps: ps, set: src.Set, environ: src.Environ, file: map[string]given{},
		decl: map[string]InputDecl{}, declAt: map[string]*node{},
		patterns: map[string]*regexp.Regexp{},
		known:    map[string]*given{}, done: map[*node]bool{},
	}
}

// readEnvFile reads NAME=VALUE lines. A value goes to the end of its line; one
// pair of quotes around it is taken off; nothing in it is expanded.
func (in *inputs) readEnvFile(name string, data []byte) {
	src := newSource(name, orderEnvFile, data)
	if len(data) > maxFile {
		in.ps.at(src, 0, 0, "", fmt.Sprintf("the file is larger than %d KiB", maxFile>>10), "")
		return
	}
	if !utf8.Valid(data) {
		in.ps.at(src, 0, 0, "", "the file is not UTF-8", "save it in the encoding UTF-8")
		return
	}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok {
			in.ps.at(src, i+1, 1, "", "want NAME=VALUE", "comments begin with #")
			continue
		}
		if first, twice := in.file[key]; twice {
			in.ps.at(src, i+1, 1, "", fmt.Sprintf("%s is already on line %d", quote(key), first.line), "remove one of them")
			continue
		}
		if n := len(value); n >= 2 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
			value = value[1 : n-1]
		}
		in.file[key] = given{value, FromEnvFile, src, i + 1}
	}
}

// declare reads the inputs section.
func (in *inputs) declare(n *node, decl map[string]InputDecl) {
	in.decl = decl
	for _, p := range n.pairs {
		name := p.key.text
		in.declAt[name] = p.key
		pattern := decl[name].Pattern
		if pattern == "" {
			continue
		}
		_, err := regexp.Compile(pattern) // alone, for an error without our anchors
		var re *regexp.Regexp
		if err == nil {
			re, err = regexp.Compile(`\A(?:` + pattern + `)\z`)
		}
		if err != nil {
			in.ps.add(p.value.get("pattern"), join("inputs", name)+".pattern", "not a regular expression: "+err.Error(), "the syntax is RE2's")
			continue
		}
		in.patterns[name] = re
	}
}

// lookup finds a name's value, strongest source first. It reports a value that
// may not be used; ok is false where there is none.
func (in *inputs) lookup(name string) (*given, bool) {
	if g, asked := in.known[name]; asked {
		return g, g != nil
	}
	g := in.find(name)
	in.known[name] = g
	if g != nil {
		in.check(name, g)
	}
	return g, g != nil
}

func (in *inputs) find(name string) *given {
	from := InputSource(in.decl[name].From)
	if v, ok := in.set[name]; ok && (from == "" || from == FromSet) {
		return &given{value: v, from: FromSet}
	}
	if g, ok := in.file[name]; ok && (from == "" || from == FromEnvFile) {
		return &g
	}
	if in.environ != nil && (from == "" || from == FromEnvironment) {
		if v, ok := in.environ(name); ok {
			return &given{value: v, from: FromEnvironment}
		}
	}
	return nil
}

// check reports a value that an input may not have.
func (in *inputs) check(name string, g *given) {
	r, bad := badRune(g.value)
	switch {
	case isSecretName(name) && !strings.HasPrefix(g.value, "secret:"):
		in.report(name, g, "the input "+name+" looks like a secret, and inputs are recorded in the ledger",
			"refer to it where it is used: secret:env/"+name+" or secret:file/PATH")
	case !utf8.ValidString(g.value):
		in.report(name, g, "the value of "+name+" is not UTF-8", "")
	case len(g.value) > maxInput:
		in.report(name, g, fmt.Sprintf("the value of %s is larger than %d KiB", name, maxInput>>10), "put large content into a file of its own")
	case bad:
		in.report(name, g, "the value of "+name+": "+badRuneMessage(r), "")
	default:
		in.checkDeclared(name, g)
	}
}

func (in *inputs) checkDeclared(name string, g *given) {
	decl, ok := in.decl[name]
	if !ok {
		return
	}
	if len(decl.OneOf) > 0 && !slices.Contains(decl.OneOf, g.value) {
		in.report(name, g, fmt.Sprintf("the input %s is %s, which is not one of %s", name, quote(g.value), list(decl.OneOf)), in.ps.suggest(g.value, decl.OneOf))
	}
	if re := in.patterns[name]; re != nil && !re.MatchString(g.value) {
		in.report(name, g, fmt.Sprintf("the input %s is %s, which does not match %s", name, quote(g.value), quote(decl.Pattern)), decl.Doc)
	}
}

// report places a problem of a value where the value came from.
func (in *inputs) report(name string, g *given, message, hint string) {
	switch g.from {
	case FromEnvFile:
		in.ps.at(g.src, g.line, 1, name, message, hint)
	case FromSet:
		in.ps.at(nil, 0, 0, "--set "+name, message, hint)
	case FromEnvironment:
		in.ps.at(nil, 0, 0, "environment "+name, message, hint)
	}
}

// fill puts inputs into every scalar below n.
func (in *inputs) fill(n *node, path string) {
	if in.done[n] {
		return
	}
	in.done[n] = true
	for _, p := range n.pairs {
		in.fill(p.value, join(path, p.key.text))
	}
	for i, item := range n.items {
		in.fill(item, at(path, i))
	}
	if n.shape == scalar && strings.Contains(n.text, "${") {
		text, filled, ok := in.expand(n, path)
		n.text, n.filled = text, filled
		if !ok {
			n.shape = void // reported; nobody judges what is left
		}
	}
}

// plainWord reports whether a shell takes the value as one word that means
// itself, wherever in a script it stands.
func plainWord(value string) bool {
	const marks = "_./:@%+=,-"
	for _, r := range value {
		switch {
		case r == utf8.RuneError || unicode.IsControl(r):
			return true // a problem of its own, reported where it came in
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune(marks, r):
		default:
			return false
		}
	}
	return value != ""
}

// expand replaces ${NAME} and unescapes $${ in one pass. It tells whether a
// value was put in, and is not ok where it reported a problem.
func (in *inputs) expand(n *node, path string) (text string, filled, ok bool) {
	var b strings.Builder
	ok = true
	rest := n.text
	for {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			break
		}
		if i > 0 && rest[i-1] == '$' {
			b.WriteString(rest[:i-1] + "${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		name, tail, closed := strings.Cut(rest[i+2:], "}")
		if !closed || !isInputName(name) {
			in.ps.add(n, path, quote(rest[i:len(rest)-len(tail)])+" does not name an input", inputNameHint+"; to keep the text as it is write $${")
			return n.text, false, false
		}
		rest = tail
		g := in.value(n, path, name)
		if g == nil {
			ok = false
			continue
		}
		filled = true
		if !plainWord(g.value) {
			n.unsafe = name
		}
		in.bytes += len(g.value)
		if in.bytes > maxText {
			in.ps.add(n, path, fmt.Sprintf("the inputs put in are more than %d MiB of text", maxText>>20), "put large content into a file of its own")
			return "", false, false
		}
		b.WriteString(g.value)
	}
	return b.String(), filled, ok
}

// value is lookup that reports, once, that there is no value.
func (in *inputs) value(n *node, path, name string) *given {
	_, asked := in.known[name]
	g, ok := in.lookup(name)
	if !ok && !asked {
		in.ps.add(n, path, "the input "+name+" has no value", in.missingHint(name))
	}
	return g
}

func (in *inputs) missingHint(name string) string {
	decl := in.decl[name]
	hint := "give it with --set " + name + "=VALUE, in an --env-file or in the environment"
	switch InputSource(decl.From) {
	case FromSet:
		hint = "give it with --set " + name + "=VALUE"
	case FromEnvFile:
		hint = "give it in an --env-file"
	case FromEnvironment:
		hint = "give it in the environment: " + name + "=VALUE backstay …"
	default:
		if isSecretName(name) {
			hint = "a secret is not an input: write secret:env/" + name + " or secret:file/PATH"
		}
	}
	if decl.Doc != "" {
		hint += " (" + decl.Doc + ")"
	}
	return hint
}

// finish reports declared inputs without a value and given ones that nothing
// uses, and returns the record of what was used.
func (in *inputs) finish() []Input {
	for _, name := range slices.Sorted(maps.Keys(in.decl)) {
		decl := in.decl[name]
		_, asked := in.known[name]
		if asked || !isInputName(name) {
			continue
		}
		environ := in.environ
		if InputSource(decl.From) != FromEnvironment {
			in.environ = nil // a name that is not used is not asked for
		}
		_, ok := in.lookup(name)
		in.environ = environ
		if !ok && (decl.Required == nil || *decl.Required) {
			in.ps.add(in.declAt[name], join("inputs", name), "the input "+name+" has no value", in.missingHint(name))
		}
	}
	names := slices.Sorted(maps.Keys(in.known))
	for _, name := range slices.Sorted(maps.Keys(in.set)) {
		if g := in.known[name]; g != nil && g.from == FromSet {
			continue
		}
		message, hint := "nothing in the file uses ${"+quoteless(name)+"}", orHint(in.ps.suggest(name, names), "the inputs are: "+list(names))
		if from := in.decl[name].From; from != "" {
			message, hint = "the input "+name+" may only come from: "+from, ""
		} else if len(names) == 0 {
			hint = "the file has no inputs"
		}
		in.ps.at(nil, 0, 0, "--set "+quoteless(name), message, hint)
	}
	var used []Input
	for _, name := range names {
		if g := in.known[name]; g != nil {
			used = append(used, Input{name, g.value, g.from})
		}
	}
	return used
}
