package drivertest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// maxWalked is the size beyond which Walk does not read a file's content.
const maxWalked = 64 << 20

// Walk reads everything at and below root by the plainest means, for World:
// relative path to type, mode, owner, modification time, content, symlink
// target, extended attributes and hard link group; of files beyond 64 MiB only
// the size. Skip (may be nil) leaves
// paths out; the modification times of directories for which calm (may be nil)
// returns false are left out, as they change with every file in them.
func Walk(t testing.TB, root string, skip, calm func(rel string) bool) map[string]string {
	t.Helper()
	world := map[string]string{}
	links := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if skip != nil && skip(rel) {
			return nil
		}
		text, err := describe(p, rel, links, calm)
		world[rel] = text
		return err
	})
	if err != nil {
		t.Fatalf("walk %s: %v", root, err)
	}
	return world
}

func describe(p, rel string, links map[uint64]string, calm func(string) bool) (string, error) {
	info, err := os.Lstat(p)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("stat of %s has no system part", p)
	}
	text := fmt.Sprintf("%v %o %d:%d", info.Mode(), st.Mode, st.Uid, st.Gid)
	if !info.IsDir() || calm == nil || calm(rel) {
		text += " " + info.ModTime().UTC().Format("2006-01-02T15:04:05.000000000")
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(p)
		return text + " → " + target, err
	case info.Mode().IsRegular() && info.Size() > maxWalked:
		text += fmt.Sprintf(" %d bytes unread", info.Size())
	case info.Mode().IsRegular():
		content, err := os.ReadFile(p)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(content)
		text += fmt.Sprintf(" %d bytes %s %.40q", len(content), hex.EncodeToString(sum[:8]), content)
		if st.Nlink > 1 {
			if first, ok := links[st.Ino]; ok {
				text += " link to " + first
			} else {
				links[st.Ino] = rel
			}
		}
	}
	xattrs, err := listXattrs(p)
	return text + xattrs, err
}

func listXattrs(p string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.Trim(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	text := ""
	for _, name := range names {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return text, nil
}
