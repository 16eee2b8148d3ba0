package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

var _ driver.Explainer = (*Driver)(nil)

// Explain gives what one instance is started with, and how it is seen to be
// ready. Placeholders stand as they do in the specification.
func (*Driver) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := decode(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	d := b.Definition
	var words []string
	if d.Dir != "" {
		words = append(words, "cd "+driver.ShellWord(d.Dir)+" &&")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		words = append(words, name+"="+driver.ShellValue(name, d.Env[name]))
	}
	words = append(words, driver.ShellWords(d.Command))
	out := backstay.Explanation{
		Do: []backstay.Command{
			{Note: fmt.Sprintf("Backstay unpacks %s (sha256:%s) and starts %d of these, each as a process group of its own", d.File, d.Release, d.Instances), Line: strings.Join(words, " ")},
		},
		Undo: []backstay.Command{{Note: "Backstay makes the former instances current again, starting those that no longer live from their pinned release, and stops the new ones within " + d.Drain.String()}},
		Read: []backstay.Command{{Note: "which release is current and how many instances live, held against the ledger; exit code 2 says that it differs", Line: "backstay drift"}},
	}
	switch r := d.Ready; {
	case r.HTTP != "":
		out.Probe = append(out.Probe, backstay.Command{Note: "an instance is ready when this succeeds, at most " + r.Within.String() + " after its start", Line: `curl -fsS "http://127.0.0.1:$PORT"` + driver.ShellWord(r.HTTP)})
	case len(r.Run) > 0:
		out.Probe = append(out.Probe, backstay.Command{Note: "an instance is ready when this succeeds, at most " + r.Within.String() + " after its start", Line: driver.ShellWords(r.Run)})
	case r.TCP:
		out.Probe = append(out.Probe, backstay.Command{Note: "an instance is ready when its port takes connections, at most " + r.Within.String() + " after its start"})
	}
	return out, nil
}
