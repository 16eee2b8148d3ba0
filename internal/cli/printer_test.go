package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want, line string }{
		{"plain", "hello", "hello", "hello"},
		{"unicode", "Grüße 🚢", "Grüße 🚢", "Grüße 🚢"},
		{"escape sequence", "\x1b[31mred\x1b[0m", "[31mred[0m", "[31mred[0m"},
		{"title sequence", "\x1b]0;owned\x07", "]0;owned", "]0;owned"},
		{"C1 control", "a\u009b31mb", "a31mb", "a31mb"},
		{"carriage return", "good\rbad", "goodbad", "goodbad"},
		{"line break", "one\ntwo\tthree", "one\ntwo\tthree", "one two three"},
		{"windows line break", "one\r\ntwo", "one\ntwo", "one two"},
		{"bidi override", "a\u202eb\u2066c", "abc", "abc"},
		{"backspace", "rm\b\bls", "rmls", "rmls"},
		{"not UTF-8", "a\xffb", "a?b", "a?b"},
		{"NUL", "a\x00b", "ab", "ab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := clean(tt.in); got != tt.want {
				t.Errorf("clean(%q) = %q, want %q", tt.in, got, tt.want)
			}
			if got := cleanLine(tt.in); got != tt.line {
				t.Errorf("cleanLine(%q) = %q, want %q", tt.in, got, tt.line)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"", "a", "\x1b[2J", "\r\n", "\u202e", "\xff\xfe", "\u009b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := cleanLine(s)
		for _, r := range got {
			if r < 0x20 || (r >= 0x7f && r < 0xa0) || (r >= 0x202a && r <= 0x202e) {
				t.Fatalf("cleanLine(%q) = %q keeps %U", s, got, r)
			}
		}
		if again := cleanLine(got); again != got {
			t.Fatalf("cleanLine is not stable: %q, then %q", got, again)
		}
	})
}

func TestPrinterCleansArguments(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := newPrinter(&b, true)
	p.line("%s %s %s %s", "a\x1b[2J", errors.New("b\nc"), backstay.Key("d\re"), p.paint(badTone, "f\x07"))
	if got, want := b.String(), "a[2J b c de \x1b[1;31mf\x1b[m\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPrinterWithoutColor(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := newPrinter(&b, false)
	for _, tn := range []tone{plainTone, goodTone, badTone, warnTone, dimTone, boldTone} {
		p.line("%s", p.paint(tn, "x"))
	}
	if got := b.String(); got != strings.Repeat("x\n", 6) {
		t.Errorf("got %q", got)
	}
}

type failingWriter struct{ n int }

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.n--; w.n < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

func TestPrinterKeepsTheFirstError(t *testing.T) {
	t.Parallel()
	p := newPrinter(&failingWriter{n: 1}, false)
	p.line("one")
	if p.err() != nil {
		t.Fatal(p.err())
	}
	p.line("two")
	p.line("three")
	if p.err() == nil || p.err().Error() != "disk full" {
		t.Errorf("error %v", p.err())
	}
}

func TestProblemsLookLikeACompilers(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	newPrinter(&b, false).problems([]backstay.Problem{
		{File: "backstay.yaml", Line: 12, Column: 5, Path: "steps[2].mod", Message: `unknown key "mod"`, Hint: `did you mean "mode"?`, Source: "    mod: 0644"},
		{File: "backstay.yaml", Line: 3, Column: 3, Message: "tabs", Source: "\t\tx"},
		{File: "backstay.yaml", Line: 4, Column: 4, Message: "wide", Source: "日本x"},
		{Path: "-e", Message: "no environment\x1b[2J"},
	})
	want := `backstay.yaml:12:5: steps[2].mod: unknown key "mod"
    12 |     mod: 0644
       |     ^
       hint: did you mean "mode"?
backstay.yaml:3:3: tabs
     3 |   x
       |   ^
backstay.yaml:4:4: wide
     4 | 日本x
       |      ^
-e: no environment[2J
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
