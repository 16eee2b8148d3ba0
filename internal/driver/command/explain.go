package command

import (
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

var _ driver.Explainer = (*Driver)(nil)

// Explain gives the commands of the step as a person would type them: in the
// step's directory, with its variables.
func (*Driver) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := decode(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	out := backstay.Explanation{Do: []backstay.Command{b.typed(b.Run, "")}}
	if b.Undo != nil {
		out.Undo = append(out.Undo, b.typed(*b.Undo, "the undo command; it bears running twice"))
	}
	for _, p := range b.Touches {
		word := driver.ShellWord(p)
		out.Undo = append(out.Undo, backstay.Command{Note: "Backstay puts " + p + " back from its before-image, part by part; what somebody else changed since is kept"})
		out.Read = append(out.Read, backstay.Command{
			Note: "names, modes, owners and contents below " + p,
			Line: "find " + word + " -printf '%M %u:%g %s %p\\n' && find " + word + " -type f -exec sha256sum {} +",
		})
	}
	if b.Probe != nil {
		out.Probe = append(out.Probe, b.typed(*b.Probe, "exit status 0: it was done; 1: it was not; anything else: unknown"))
	}
	if b.Read != nil {
		out.Read = append(out.Read, b.typed(*b.Read, "what it prints is the state that the step changes"))
	}
	return out, nil
}

// typed is one command line with directory and variables.
func (b body) typed(l line, note string) backstay.Command {
	words := []string{}
	for _, name := range slices.Sorted(maps.Keys(b.Env)) {
		words = append(words, name+"="+driver.ShellValue(name, b.Env[name]))
	}
	if l.Line.Argv != nil {
		words = append(words, driver.ShellWords(l.Line.Argv))
	} else {
		words = append(words, "sh -euc "+driver.ShellWord(strings.TrimSpace(l.Line.Shell)))
	}
	c := backstay.Command{Note: note, Line: "cd " + driver.ShellWord(b.Dir) + " && " + strings.Join(words, " ")}
	if l.Pin != nil {
		if c.Note != "" {
			c.Note += "; "
		}
		c.Note += l.Pin.Path + " is pinned: once it is no longer sha256:" + l.Pin.Digest[:min(12, len(l.Pin.Digest))] + ", Backstay runs its own copy"
	}
	return c
}
