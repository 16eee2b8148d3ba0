package driver

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

const (
	// secretPrefix begins a reference to a secret.
	secretPrefix = "secret:"
	// ownPrefix begins the names of variables that Backstay itself sets.
	ownPrefix = "BACKSTAY_"
)

// CheckEnv says what is wrong with variables that a step declares for its
// commands, at their paths below at, and which references to secrets they hold,
// sorted by variable. With secrets set every reference must resolve.
func CheckEnv(at string, env map[string]string, secrets backstay.Secrets) (problems []backstay.Problem, references []string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		at, value := at+"."+name, env[name]
		if why, hint := RefuseVariable(name); why != "" {
			problems = append(problems, backstay.Problem{Path: at, Message: why, Hint: hint})
		}
		if why := refuseValue(name, value); why != "" {
			problems = append(problems, backstay.Problem{Path: at, Message: why})
		}
		if !strings.HasPrefix(value, secretPrefix) {
			continue
		}
		if !slices.Contains(references, value) {
			references = append(references, value)
		}
		if secrets == nil {
			continue
		}
		if _, err := secrets.Resolve(value); err != nil {
			problems = append(problems, backstay.Problem{Path: at, Message: err.Error(), Hint: backstay.HintOf(err)})
		}
	}
	return problems, references
}

// RefuseVariable says why a name may not be declared as a variable for
// commands: it is none, it is Backstay's own, or it makes every program load
// other code before its first line. Both texts are empty where it may.
func RefuseVariable(name string) (why, hint string) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	switch {
	case name == "" || strings.Trim(name, letters+"0123456789") != "" || !strings.Contains(letters, name[:1]):
		return fmt.Sprintf("%q is not a name for a variable", name), "letters, digits and _, no digit first"
	case strings.HasPrefix(name, ownPrefix):
		return "names that begin with " + ownPrefix + " are Backstay's own", "rename the variable"
	case strings.HasPrefix(name, "LD_"), name == "BASH_ENV", name == "ENV", name == "GCONV_PATH":
		return name + " makes every program of the step load other code", "set it inside a script, for the one program that needs it"
	}
	return "", ""
}

// refuseValue says why a variable may not have a value; empty where it may. A
// relative entry in PATH would look for programs in whatever directory is current.
func refuseValue(name, value string) string {
	if strings.ContainsRune(value, 0) {
		return "holds a NUL byte"
	}
	if name == "PATH" && slices.ContainsFunc(filepath.SplitList(value), func(e string) bool { return !filepath.IsAbs(e) }) {
		return "has an entry that is not absolute"
	}
	return ""
}
