package proc

import (
	"os"
	"path/filepath"
)

// MaxTasks is how many processes and threads a run may have at once, where the
// host lets it be bounded (see the package comment). A build on many cores needs
// hundreds; a host has room for tens of thousands.
const MaxTasks = 4096

// pidsGroup is a run's group of the version 1 pids controller. It bounds the
// run's tasks on hosts that keep that controller out of the version 2 tree. Nil
// does nothing.
type pidsGroup struct{ path string }

// newPidsGroup makes a group below the caller's own; nil where it cannot.
func newPidsGroup(limit int) *pidsGroup {
	path, ok := makeGroup("pids")
	if !ok {
		return nil
	}
	g := &pidsGroup{path: path}
	if err := limitTasks(path, limit); err != nil {
		g.remove()
		return nil
	}
	return g
}

// inside calls do while the calling thread is in the group, so that what it
// forks is born there. Version 1 groups hold single threads: the rest of the
// supervisor is not bounded by what its command does. The caller has locked
// the thread.
func (g *pidsGroup) inside(do func()) {
	if g == nil {
		do()
		return
	}
	// "0" is whoever writes it.
	if err := os.WriteFile(filepath.Join(g.path, "tasks"), []byte("0"), 0); err == nil {
		defer func() { _ = os.WriteFile(filepath.Join(filepath.Dir(g.path), "tasks"), []byte("0"), 0) }()
	}
	do()
}

// remove removes the group; one that still has a process stays.
func (g *pidsGroup) remove() {
	if g != nil {
		_ = os.Remove(g.path)
	}
}
