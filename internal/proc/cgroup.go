package proc

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroup is the control group of one run, where the host has a version 2 tree
// in which this process may make one. It is an extra: the kernel kills a whole
// group at once, which a fork bomb cannot outrun. Nil does nothing.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group below the caller's own; nil where it cannot.
func newCgroup(limit int) *cgroup {
	path, ok := makeGroup(unified)
	if !ok {
		return nil
	}
	c := &cgroup{path: path}
	if _, err := os.Stat(filepath.Join(path, "cgroup.kill")); err != nil { // Linux before 5.14
		c.remove()
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		c.remove()
		return nil
	}
	c.dir = dir
	_ = limitTasks(path, limit) // not every parent hands the pids controller on
	return c
}

// makeGroup makes a group of a fresh name below this process's own in one
// hierarchy; false where it may not.
func makeGroup(controller string) (string, bool) {
	own, ok := ownCgroup("/proc/self/mountinfo", "/proc/self/cgroup", controller)
	if !ok {
		return "", false
	}
	sweepCgroups(own, time.Now())
	path := filepath.Join(own, cgroupPrefix+newRunName())
	return path, os.Mkdir(path, 0o755) == nil
}

// limitTasks bounds how many processes and threads a group and all below it
// may have: a fork beyond it fails with EAGAIN. It fails where the group has no
// pids controller.
func limitTasks(path string, limit int) error {
	f, err := os.OpenFile(filepath.Join(path, "pids.max"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(limit))
	return errors.Join(err, f.Close())
}

const (
	cgroupPrefix = "backstay-"
	// cgroupRest is the age from which an empty group is a killed supervisor's.
	cgroupRest = time.Minute
)

// sweepCgroups removes the empty groups that killed supervisors left. The
// kernel refuses to remove one that still has a process.
func sweepCgroups(parent string, now time.Time) {
	groups, err := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
	if err != nil {
		return
	}
	for _, g := range groups {
		if st, err := os.Stat(g); err == nil && now.Sub(st.ModTime()) > cgroupRest {
			_ = os.Remove(g)
		}
	}
}

// unified names the version 2 hierarchy; others are named by a version 1 controller.
const unified = ""

// ownCgroup finds the directory of this process's group in one hierarchy.
func ownCgroup(mountinfo, membership, controller string) (string, bool) {
	group, ok := "", false
	_ = eachLine(membership, func(line string) {
		// cgroups(7): id:controllers:/path; version 2 is 0::/path
		id, rest, _ := strings.Cut(line, ":")
		names, g, _ := strings.Cut(rest, ":/")
		here := slices.Contains(strings.Split(names, ","), controller) && (id == "0") == (controller == unified)
		if here && !strings.Contains("/"+g+"/", "/../") {
			group, ok = g, true
		}
	})
	if !ok {
		return "", false
	}
	mount := ""
	_ = eachLine(mountinfo, func(line string) {
		// proc_pid_mountinfo(5): … root mountpoint … - type source options
		before, after, found := strings.Cut(line, " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if !found || len(f) < 5 || f[3] != "/" || len(fs) < 3 {
			return
		}
		if fs[0] == "cgroup2" && controller == unified ||
			fs[0] == "cgroup" && controller != unified && slices.Contains(strings.Split(fs[2], ","), controller) {
			mount = f[4]
		}
	})
	if mount == "" {
		return "", false
	}
	return filepath.Join(mount, group), true
}

func eachLine(path string, do func(line string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}

// use makes the next process be born into the group.
func (c *cgroup) use(attr *syscall.SysProcAttr) {
	if c != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(c.dir.Fd())
	}
}

// kill kills every process in the group, as far as it goes: the caller makes
// sure by other means.
func (c *cgroup) kill() {
	if c != nil {
		_ = os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0)
	}
}

// remove removes the group; one that still has a process stays.
func (c *cgroup) remove() {
	if c == nil {
		return
	}
	if c.dir != nil {
		_ = c.dir.Close()
	}
	_ = os.Remove(c.path)
}
