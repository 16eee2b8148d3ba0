package traffic

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
)

// Explain says what a person would type to look, and what is moved.
func (*Kind) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := decode(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	out := backstay.Explanation{
		Do:   []backstay.Command{{Note: step.Summary}},
		Undo: []backstay.Command{{Note: step.UndoSummary}},
	}
	if c := b.Router.Proxy; c != nil {
		out.Read = []backstay.Command{{Line: "backstay proxy status --admin " + driver.ShellWord(c.Socket), Note: "route " + c.Route}}
		url := "http://proxy/v1/routes/" + c.Route
		out.Do = append(out.Do, backstay.Command{
			Line: strings.Join([]string{"curl", "--unix-socket", driver.ShellWord(c.Socket), url}, " "),
			Note: "shows the route with its digest; a change is posted there",
		})
	}
	if c := b.Router.HAProxy; c != nil {
		ask := func(command string) string {
			return "echo " + driver.ShellWord(command) + " | socat - " + driver.ShellWord("UNIX-CONNECT:"+c.Socket)
		}
		out.Read = []backstay.Command{{Line: ask("show servers state " + c.Backend), Note: "srv_uweight of each server"}}
		if b.Move == nil {
			return out, nil
		}
		for _, side := range slices.Sorted(maps.Keys(c.Sides)) {
			for i, w := range router.Split(b.Move[side], len(c.Sides[side])) {
				out.Do = append(out.Do, backstay.Command{
					Line: ask(fmt.Sprintf("set weight %s/%s %d", c.Backend, c.Sides[side][i], w)), Note: "side " + side + ", if all its servers are in use",
				})
			}
		}
	}
	if c := b.Router.Nginx; c != nil {
		out.Read = []backstay.Command{{Line: "cat " + driver.ShellWord(c.File), Note: "upstream " + c.Upstream}}
		out.Do = append(out.Do, backstay.Command{
			Line: driver.ShellWords(c.Test) + " && " + driver.ShellWords(c.Reload), Note: "after the weights in " + c.File + " were changed",
		})
		out.Undo = append(out.Undo, out.Do[len(out.Do)-1])
	}
	return out, nil
}
