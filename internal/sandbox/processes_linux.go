package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Processes lists the programs that run in the sandbox, each as often as it
// runs, sorted. Those of this very binary are left out: they are Backstay's.
// Only a process inside can ask.
func Processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var all []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		// It fails for one that has ended, or is about to.
		program, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if program = strings.TrimSuffix(program, " (deleted)"); err == nil && program != own {
			all = append(all, program)
		}
	}
	slices.Sort(all)
	return all, nil
}
