package driver_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay/internal/driver"
)

// shell is what a real shell makes of a word.
func shell(tb testing.TB, word string, env ...string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "sh", "-c", "printf %s "+word)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("sh: printf %%s %s: %v", word, err)
	}
	return string(out)
}

func FuzzShellWord(f *testing.F) {
	for _, s := range []string{"", "plain", "two words", "it's", `"$HOME"`, "$(id)", "`id`", "a\nb", "-n", "%s", `\`, "*", "~", "é", "a;b", "#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			t.Skip("no argument holds a NUL byte")
		}
		if got := shell(t, driver.ShellWord(s)); got != s {
			t.Errorf("the shell reads %q as %q", s, got)
		}
	})
}

func TestShellValue(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, value, want string }{
		{"LANG", "C.UTF-8", "C.UTF-8"},
		{"LANG", "a b", "'a b'"},
		{"X", "secret:env/TOKEN", `"$TOKEN"`},
		{"X", "secret:file//run/key file", `"$(cat '/run/key file')"`},
		{"X", "secret:env/NOT A NAME", "'secret:env/NOT A NAME'"},
		{"X", "secret:vault/db", "secret:vault/db"},
		{"API_TOKEN", "plain", "'(not shown)'"},
		{"Authorization", "Bearer plain", "'(not shown)'"},
		{"Authorization", "secret:env/AUTH", `"$AUTH"`},
		{"DB_PASSWORD", "", "''"},
		{"MONKEY", "banana", "banana"},
		{"SSH_KEY", "plain", "'(not shown)'"},
	}
	for _, tt := range tests {
		if got := driver.ShellValue(tt.name, tt.value); got != tt.want {
			t.Errorf("%s=%s: got %s, want %s", tt.name, tt.value, got, tt.want)
		}
	}
	if got := shell(t, driver.ShellValue("X", "secret:env/TOKEN"), "TOKEN=s3 cret"); got != "s3 cret" {
		t.Errorf("the reference reads as %q", got)
	}
}
