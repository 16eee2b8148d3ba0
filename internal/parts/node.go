package parts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Node copies a directory with package.json and package-lock.json to a temporary
// one, installs exactly the packages that the lock names, without running
// anything of theirs, and returns it.
func Node(t testing.TB, from string) string {
	t.Helper()
	Real(t)
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: scripts/install-parts.sh installs it", tool)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatalf("copy %s: %v", from, err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("npm ci in a copy of %s: %v\n%s", filepath.Base(from), err, out.Bytes())
	}
	return dir
}
