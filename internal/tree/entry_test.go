package tree

import (
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"plain": "plain", "ü": "ü", "\xff": `\xff`, `a\b`: `a\\b`, `\xff`: `\\xff`, "é\xc3": `é\xc3`, "\uFFFD": "\uFFFD",
	} {
		got := Escape(name)
		back, err := unescape(got)
		if got != want || err != nil || back != name {
			t.Errorf("Escape(%q) = %q, back %q (%v), want %q", name, got, back, err, want)
		}
	}
	for _, bad := range []string{`\`, `\x`, `\x4`, `\x41`, `\q`, `\xzz`} {
		if _, err := unescape(bad); err == nil {
			t.Errorf("unescape(%q) was not refused", bad)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\\b\xff")
	f.Fuzz(func(t *testing.T, name string) {
		text := Escape(name)
		if !utf8.ValidString(text) {
			t.Errorf("Escape(%q) = %q is not UTF-8", name, text)
		}
		if back, err := unescape(text); err != nil || back != name {
			t.Errorf("Escape(%q) = %q, back %q (%v)", name, text, back, err)
		}
	})
}
