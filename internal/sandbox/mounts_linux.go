package sandbox

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// realMounts lists where file systems with files of people's are mounted, the
// outer ones first, each once.
func realMounts(scratch string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	return parseMounts(string(data), scratch), nil
}

// parseMounts reads mountinfo (proc(5)). File systems of the kernel's own are
// left out, as is what lies below them.
func parseMounts(text, scratch string) []string {
	kernels := []string{
		"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "mqueue", "debugfs", "tracefs", "securityfs", "pstore", "bpf",
		"configfs", "fusectl", "hugetlbfs", "binfmt_misc", "rpc_pipefs", "nsfs", "autofs", "efivarfs", "selinuxfs",
	}
	var all, below []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		sep := slices.Index(fields, "-")
		if len(fields) < 6 || sep < 0 || sep+1 >= len(fields) {
			continue
		}
		at := unescape(fields[4])
		switch {
		case at == scratch:
		case slices.Contains(kernels, fields[sep+1]):
			below = append(below, at)
		default:
			all = append(all, at)
		}
	}
	all = slices.DeleteFunc(all, func(at string) bool {
		return slices.ContainsFunc(below, func(k string) bool { return at == k || strings.HasPrefix(at, k+"/") })
	})
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	return slices.Compact(all)
}

// unescape reads the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
