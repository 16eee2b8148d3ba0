package proc

import (
	"bytes"
	"io"
	"os"
	"strconv"
)

// snapshot is the process table at about one moment, zombies left out.
type snapshot struct {
	boot     string
	stats    map[int]stat
	children map[int][]int
}

// takeSnapshot reads the process table. Processes that end meanwhile are
// missing, ones that start meanwhile may be: callers look again until two
// snapshots agree.
func takeSnapshot() (*snapshot, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	s := &snapshot{boot: boot, stats: map[int]stat{}, children: map[int][]int{}}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		st, err := readStat(pid)
		if err != nil || st.dead() {
			continue
		}
		s.stats[pid] = st
		s.children[st.ppid] = append(s.children[st.ppid], pid)
	}
	return s, nil
}

func (s *snapshot) identity(pid int) Identity {
	return Identity{PID: pid, Start: s.stats[pid].start, BootID: s.boot}
}

// addDescendants adds to set all descendants of root, not root itself.
func (s *snapshot) addDescendants(root int, set map[int]bool) {
	for _, child := range s.children[root] {
		if !set[child] {
			set[child] = true
			s.addDescendants(child, set)
		}
	}
}

// ancestors returns pid and the processes above it.
func (s *snapshot) ancestors(pid int) map[int]bool {
	set := map[int]bool{}
	for pid > 0 && !set[pid] {
		set[pid] = true
		pid = s.stats[pid].ppid
	}
	return set
}

// maxEnviron bounds what is read of one environment: the kernel allows at most
// three quarters of 8 MiB for arguments and environment together.
const maxEnviron = 8 << 20

// markers reads the markers in a process's environment; none where it cannot
// be read: another user's process, or one that just ends.
func markers(pid int) (m processMarkers) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return m
	}
	defer func() { _ = f.Close() }()
	block, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil || !bytes.Contains(block, []byte(EnvPrefix)) {
		return m
	}
	if text, ok := lookupEnv(block, envToken); ok {
		m.token, m.hasToken = ParseToken(text)
	}
	m.run, _ = lookupEnv(block, envRun)
	_, m.supervisor = lookupEnv(block, envSupervisor)
	return m
}

// processMarkers is what a process's environment says about it.
type processMarkers struct {
	token      Token
	hasToken   bool
	run        string
	supervisor bool
}
