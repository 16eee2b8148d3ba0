package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLinesShowsWholeCleanRedactedLines(t *testing.T) {
	t.Parallel()
	scrub := newScrubber(nil)
	scrub.learn("hunter2-long-secret")
	var got []string
	l := &lines{scrub: scrub, show: func(line string) { got = append(got, line) }}
	for _, part := range []string{"one", " two\nthe pass is hunter2-", "long-secret\n\x1b[31mred\r\n", "rest"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", part, n, err)
		}
	}
	want := []string{"one two", "the pass is [redacted]", "[31mred"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestLinesBoundsALine(t *testing.T) {
	t.Parallel()
	var got []string
	l := &lines{scrub: newScrubber(nil), show: func(line string) { got = append(got, line) }}
	if _, err := l.Write([]byte(strings.Repeat("word ", 10_000) + "\nnext\n")); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(got[0]) > maxLine+8 || !strings.HasSuffix(got[0], "word […]") || got[1] != "next" {
		t.Errorf("got %d lines, the first of %d bytes, the last %q", len(got), len(got[0]), got[len(got)-1])
	}
}
