package proc

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// The names of the markers in the environment of every process started here.
// Names that begin with EnvPrefix are reserved: commands cannot set them.
const (
	EnvPrefix     = "BACKSTAY_"
	envToken      = EnvPrefix + "TOKEN"      // a Token
	envRun        = EnvPrefix + "RUN"        // unique to one run or detached process
	envSupervisor = EnvPrefix + "SUPERVISOR" // set in supervisors only
)

// DefaultPath is the PATH of commands that declare none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Token says for whom a process works. Its text, the value of BACKSTAY_TOKEN,
// is "<deployment>/<step>/<generation>.<epoch>/<seq>"; a step may hold slashes.
type Token struct {
	Deployment string
	Step       string
	Fence      backstay.Token
}

func (t Token) String() string {
	return fmt.Sprintf("%s/%s/%d.%d/%d", t.Deployment, t.Step, t.Fence.Generation, t.Fence.Epoch, t.Fence.Seq)
}

// ParseToken reads what String writes; false for anything else.
func ParseToken(s string) (Token, bool) {
	deployment, rest, ok := strings.Cut(s, "/")
	if !ok {
		return Token{}, false
	}
	rest, seq, ok := cutLast(rest, "/")
	if !ok {
		return Token{}, false
	}
	step, epoch, ok := cutLast(rest, "/")
	if !ok {
		return Token{}, false
	}
	generation, epoch, ok := strings.Cut(epoch, ".")
	if !ok {
		return Token{}, false
	}
	t := Token{Deployment: deployment, Step: step}
	for _, f := range []struct {
		text string
		into *int64
	}{{generation, &t.Fence.Generation}, {epoch, &t.Fence.Epoch}, {seq, &t.Fence.Seq}} {
		n, err := strconv.ParseInt(f.text, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != f.text {
			return Token{}, false
		}
		*f.into = n
	}
	return t, true
}

// OlderActs matches the tokens of one step of one deployment that were given
// out under an older generation or epoch than before: what a taken-over
// deployment's former driver left running. An empty deployment matches nothing.
func OlderActs(deployment, step string, before backstay.Token) func(Token) bool {
	return func(t Token) bool {
		if deployment == "" || t.Deployment != deployment || t.Step != step {
			return false
		}
		t.Fence.Seq, before.Seq = 0, 0
		return t.Fence.Less(before)
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// newRunName returns a name that no other run has.
func newRunName() string { return rand.Text() }

// lookupEnv finds a variable in an environment block (NUL-terminated
// NAME=value strings, as in /proc/PID/environ). As in getenv(3), the first wins.
func lookupEnv(block []byte, name string) (string, bool) {
	for len(block) > 0 {
		entry, rest, _ := bytes.Cut(block, []byte{0})
		if key, value, ok := bytes.Cut(entry, []byte{'='}); ok && string(key) == name {
			return string(value), true
		}
		block = rest
	}
	return "", false
}
