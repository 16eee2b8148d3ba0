package spec

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

const (
	secretPrefix = "secret:"
	secretHint   = "write secret:env/NAME (environment variable) or secret:file/PATH (relative to backstay.yaml; secret:file//run/x is absolute)"
)

// badSecret says what is wrong with a text that begins with "secret:", or "".
func badSecret(ref string) string {
	provider, rest, _ := strings.Cut(strings.TrimPrefix(ref, secretPrefix), "/")
	switch provider {
	case "env":
		for i := range len(rest) {
			c := rune(rest[i])
			if !isWord(c) || i == 0 && c >= '0' && c <= '9' {
				return quote(rest) + " is not an environment variable's name"
			}
		}
		if rest == "" {
			return "the secret reference names no environment variable"
		}
	case "file":
		if strings.Trim(rest, "/") == "" || strings.HasSuffix(rest, "/") {
			return "the secret reference names no file"
		}
		if slices.Contains(strings.Split(rest, "/"), "..") {
			return "a secret's path must not hold .."
		}
		if strings.ContainsAny(rest, "\n\r\t") {
			return "a secret's path must be one line"
		}
	default:
		return "there is no secret provider " + quote(provider) + "; there are: env, file"
	}
	return ""
}

// checkSecrets reports malformed secret references in all scalars below n.
func checkSecrets(ps *problems, n *node, path string, seen map[*node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	for _, p := range n.pairs {
		checkSecrets(ps, p.value, join(path, p.key.text), seen)
	}
	for i, item := range n.items {
		checkSecrets(ps, item, at(path, i), seen)
	}
	if n.shape == scalar && strings.HasPrefix(n.text, secretPrefix) {
		if message := badSecret(n.text); message != "" {
			ps.add(n, path, message, secretHint)
		}
	}
}

// Secrets returns every secret reference that the spec's steps, checks and
// sections hold, sorted, each once. It never sees a value.
func Secrets(spec *Spec) []string {
	refs := map[string]bool{}
	collect := func(config json.RawMessage) {
		var v any
		if json.Unmarshal(config, &v) == nil {
			secretsIn(v, refs)
		}
	}
	for _, s := range spec.Steps {
		collect(s.Config)
	}
	for _, c := range spec.Verify {
		collect(c.Config)
	}
	for _, s := range spec.Sections {
		collect(s)
	}
	return slices.Sorted(maps.Keys(refs))
}

func secretsIn(v any, refs map[string]bool) {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, secretPrefix) {
			refs[v] = true
		}
	case []any:
		for _, item := range v {
			secretsIn(item, refs)
		}
	case map[string]any:
		for _, item := range v {
			secretsIn(item, refs)
		}
	}
}
