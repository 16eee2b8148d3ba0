package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// isState reports whether an extended attribute is part of a file's state.
func isState(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.")
}

// readXattrs reads the attributes that are state; nil where there are none or
// the file system has no such thing.
func readXattrs(fd int) (map[string][]byte, error) {
	list, err := grow(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var attrs map[string][]byte
	for name := range strings.SplitSeq(string(list), "\x00") {
		if !isState(name) {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if attrs == nil {
			attrs = map[string][]byte{}
		}
		attrs[name] = value
	}
	return attrs, nil
}

// grow calls a system call that fills a buffer until the buffer is large enough.
func grow(call func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := call(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// dropXattrs removes the attributes that want does not have.
func dropXattrs(fd int, want map[string][]byte) error {
	now, err := readXattrs(fd)
	if err != nil {
		return err
	}
	for name := range now {
		if _, ok := want[name]; ok {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil {
			return fmt.Errorf("remove extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// writeXattrs sets those of want that pick takes and that differ.
func writeXattrs(fd int, want map[string][]byte, pick func(string) bool) error {
	if len(want) == 0 {
		return nil
	}
	now, err := readXattrs(fd)
	if err != nil {
		return err
	}
	for name, value := range want {
		if have, ok := now[name]; !pick(name) || (ok && slices.Equal(have, value)) {
			continue
		}
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	return nil
}
