package proc

import (
	"bufio"
	"os"
	"path/filepath"
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
func newCgroup() *cgroup {
	own, ok := ownCgroup("/proc/self/mountinfo", "/proc/self/cgroup")
	if !ok {
		return nil
	}
	sweepCgroups(own, time.Now())
	path := filepath.Join(own, cgroupPrefix+newRunName())
	if err := os.Mkdir(path, 0o755); err != nil {
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
	return c
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

// ownCgroup finds the directory of this process's version 2 group.
func ownCgroup(mountinfo, membership string) (string, bool) {
	group, ok := "", false
	_ = eachLine(membership, func(line string) {
		if g, found := strings.CutPrefix(line, "0::/"); found && !strings.Contains("/"+g+"/", "/../") {
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
		f := strings.Fields(before)
		if found && strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 && f[3] == "/" {
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
