package file

import (
	"encoding/json"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/tree"
)

var _ driver.Explainer = (*Kind)(nil)

// Explain gives the commands that put the wanted state in place, show it, and
// take it away where nothing was there before.
func (*Kind) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := readBody(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	path := driver.ShellWord(b.Path)
	out := backstay.Explanation{Do: b.typed(step, path), Undo: b.undone(step, path)}
	if len(b.Validate) > 0 {
		out.Do = append(out.Do, backstay.Command{Note: "must accept the content before it is put in place; {path} is where it can be read", Line: driver.ShellWords(b.Validate)})
	}
	show := "stat -c '%F %a %u:%g %s %N' " + path + " && sha256sum " + path
	if b.View != viewSelf {
		show = "find " + path + " -printf '%M %u:%g %s %p\\n' && find " + path + " -type f -exec sha256sum {} +"
	}
	out.Read = []backstay.Command{{Note: "type, mode, owner, size and content", Line: show}}
	return out, nil
}

// typed are the commands of the do.
func (b body) typed(step backstay.Step, path string) []backstay.Command {
	var all []backstay.Command
	for _, dir := range b.Parents {
		all = append(all, backstay.Command{Note: "where it is missing", Line: "install -d -m 0755 " + driver.ShellWord(dir)})
	}
	if b.Secret != nil {
		return append(all, backstay.Command{Note: "only Backstay writes " + b.Path + ": its content holds secrets, which are resolved at use and stored nowhere"})
	}
	parts := step.Want[b.Key].Parts
	var e tree.Entry
	if raw, ok := parts[""]; !ok || json.Unmarshal(raw, &e) != nil {
		if len(parts) == 0 {
			return append(all, backstay.Command{Line: "rm -rf -- " + path})
		}
		return append(all, backstay.Command{Note: step.Summary})
	}
	switch {
	case e.Type == tree.Symlink:
		all = append(all, backstay.Command{Line: "ln -sfn -- " + driver.ShellWord(e.Target) + " " + path})
	case e.Type == tree.File && b.View == viewSelf:
		all = append(all, backstay.Command{
			Note: "NEW is a copy of the content that the plan pinned: sha256sum \"$NEW\" prints " + e.SHA256,
			Line: fmt.Sprintf(`install -m %s -o %d -g %d -- "$NEW" %s`, e.Mode, e.UID, e.GID, path),
		})
	default:
		all = append(all, backstay.Command{
			Note: fmt.Sprintf("NEW is a directory like the one that the plan pinned (%d files and directories in this step)", len(parts)),
			Line: `cp -a -- "$NEW"/. ` + path + "/",
		})
	}
	return all
}

// undone are the commands of the undo.
func (b body) undone(step backstay.Step, path string) []backstay.Command {
	if step.Before[b.Key] == (backstay.ResourceState{}).Digest() && b.View != viewParts {
		return []backstay.Command{{Note: "nothing was there before; what somebody else put there since is kept", Line: "rm -r -- " + path}}
	}
	return []backstay.Command{{Note: "Backstay puts " + b.Path + " back from its before-image in the ledger, part by part; what somebody else changed since is kept"}}
}
