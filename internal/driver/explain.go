package driver

import (
	"strings"

	"github.com/backstay-dev/backstay"
)

// Explainer is a kind that can say which commands a person would type for what
// a step (or a check, whose Do is its probe) does. It reads the frozen step
// only; it looks at nothing.
type Explainer interface {
	Explain(step backstay.Step) (backstay.Explanation, error)
}

// Explain asks the step's kind for commands. A kind that has none answers with
// the step's one-line summaries.
func (r *Registry) Explain(step backstay.Step) (backstay.Explanation, error) {
	k, err := r.kind(step.Kind)
	if err != nil {
		return backstay.Explanation{}, err
	}
	if e, ok := k.(Explainer); ok {
		return e.Explain(step)
	}
	return backstay.Explanation{Do: note(step.Summary), Undo: note(step.UndoSummary), Read: note(step.ReadSummary)}, nil
}

func note(text string) []backstay.Command {
	if text == "" {
		return nil
	}
	return []backstay.Command{{Note: text}}
}

// ShellWord is one word of a command line for a POSIX shell: what the shell
// makes of it is s, byte for byte.
func ShellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:=@%,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ShellWords joins words to a command line.
func ShellWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = ShellWord(w)
	}
	return strings.Join(out, " ")
}

// ShellValue is the value of a variable, header or body as a word: a reference
// to a secret becomes what the shell replaces by it, and a plain text that
// stands under a name for secrets is not repeated.
func ShellValue(name, value string) string {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(value, "secret:"), "/")
	switch {
	case !strings.HasPrefix(value, "secret:"):
	case kind == "env" && isName(rest):
		return `"$` + rest + `"`
	case kind == "file":
		return `"$(cat ` + ShellWord(rest) + `)"`
	default:
		return ShellWord(value)
	}
	if Sensitive(name) && value != "" {
		return "'(not shown)'"
	}
	return ShellWord(value)
}

func isName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) < 0 && (s[0] < '0' || s[0] > '9')
}

// Sensitive reports whether a variable, header or parameter has a name under
// which people keep secrets. What stands there in plain text is not shown.
func Sensitive(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"secret", "token", "passw", "passphrase", "auth", "cookie", "credential", "apikey", "api-key", "api_key", "private", "signature"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return name == "key" || name == "pwd" || strings.HasSuffix(name, "_key") || strings.HasSuffix(name, "-key") || strings.HasSuffix(name, "_pwd")
}
