package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A dump says nothing of its own database by name; rows that hold the same text keep it.
func TestWithin(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dump")
	long := "INSERT INTO a VALUES ('" + strings.Repeat("x", 1<<20-23) + "ALTER DATABASE `a``b` CHARACTER SET utf8');\n"
	text := "ALTER DATABASE `a``b` CHARACTER SET latin1 ;\n" + long + "ALTER DATABASE `a``b` CHARACTER SET utf8mb4 ;\nALTER DATABASE `other` CHARACTER SET utf8;\n-- ALTER DATABASE `a``b` CHARACTER SET utf8;"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := within(path, "a`b"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "ALTER DATABASE        CHARACTER SET latin1 ;\n" + long + "ALTER DATABASE        CHARACTER SET utf8mb4 ;\nALTER DATABASE `other` CHARACTER SET utf8;\n-- ALTER DATABASE `a``b` CHARACTER SET utf8;"
	if string(got) != want {
		t.Errorf("got %.60q … %.160q", got, got[len(got)-160:])
	}
}
