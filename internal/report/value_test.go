package report_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/backstay-dev/backstay/internal/report"
)

func TestValue(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"absent", "", "absent"},
		{"null", "null", "null"},
		{"text", `"a b"`, `"a b"`},
		{"number is kept as written", "12345678901234567890.10", "12345678901234567890.10"},
		{"bool", "true", "true"},
		{"list", `[1,"a"]`, `[1,"a"]`},
		{"file", `{"type":"file","mode":"0644","uid":0,"gid":0,"size":1234,"sha256":"` + oldSum + `"}`, "file 0644 1.2 kB sha256:9f8e7d6c5b4a"},
		{"empty file of a user", `{"type":"file","mode":"0600","uid":1000,"gid":100}`, "file 0600 owner 1000:100 0 B"},
		{"hard link", `{"type":"file","mode":"0600","uid":0,"gid":0,"size":1,"sha256":"abc","link":"a"}`, "file 0600 1 B sha256:abc hard link to a"},
		{"directory", `{"type":"dir","mode":"0755","uid":0,"gid":0}`, "directory 0755"},
		{"symlink", `{"type":"symlink","uid":0,"gid":0,"target":"a"}`, "symlink → a"},
		{"socket", `{"type":"socket","mode":"0700","uid":0,"gid":0}`, "socket 0700"},
		{"object", `{"running":true,"port":8080,"name":"web"}`, `name "web", port 8080, running true`},
		{"typed object that is no file", `{"type":"http","status":200}`, `status 200, type "http"`},
		{"empty object", "{}", "{}"},
		{"large object", `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1}`, "a 1, b 1, c 1, d 1, e 1, f 1, g 1, h 1, and 2 more"},
		{"not JSON", "{oops", "{oops"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var in json.RawMessage
			if tt.in != "" {
				in = json.RawMessage(tt.in)
			}
			if got := report.Value(in); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDifferenceIsSeen(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 500)
	tests := []struct{ name, was, is, before, after string }{
		{"only the time", `{"type":"file","mode":"0644","size":1,"mtime":"2026-01-01T00:00:00Z"}`, `{"type":"file","mode":"0644","size":1,"mtime":"2026-01-02T00:00:00Z"}`, "file 0644 1 B, mtime 2026-01-01T00:00:00Z", "file 0644 1 B, mtime 2026-01-02T00:00:00Z"},
		{"only the end of a long text", `"` + long + `a"`, `"` + long + `b"`, "(sha256:", "(sha256:"},
		{"written otherwise", `{"a":1}`, `{"a": 1}`, "(sha256:", "(sha256:"},
		{"created", "", `"x"`, "absent", `"x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw := func(s string) json.RawMessage {
				if s == "" {
					return nil
				}
				return json.RawMessage(s)
			}
			before, after := report.Difference(raw(tt.was), raw(tt.is))
			if !strings.Contains(before, tt.before) || !strings.Contains(after, tt.after) || before == after {
				t.Errorf("got %q and %q, want %q and %q", before, after, tt.before, tt.after)
			}
		})
	}
}

func TestSizeAndDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1234: "1.2 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 1 << 62: "4.6 EB"} {
		if got := report.Size(in); got != want {
			t.Errorf("Size(%d): got %q, want %q", in, got, want)
		}
	}
	for _, tt := range []struct {
		in   time.Duration
		want string
	}{
		{0, "0s"},
		{5, "5ns"},
		{1234 * time.Nanosecond, "1µs"},
		{1560 * time.Microsecond, "1.6ms"},
		{123456 * time.Microsecond, "123ms"},
		{1234 * time.Millisecond, "1.23s"},
		{12345 * time.Millisecond, "12.3s"},
		{61234 * time.Millisecond, "1m1s"},
		{90 * time.Minute, "1h30m"},
		{49 * time.Hour, "2d1h"},
		{-time.Second, "-1s"},
	} {
		if got := report.Duration(tt.in); got != tt.want {
			t.Errorf("Duration(%d): got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzValue(f *testing.F) {
	for _, v := range []string{"null", `"a"`, `{"type":"file","size":1e9}`, `{"type":"dir","mode":5,"uid":"x"}`, "{", "\xff", `{"a":{"b":["\u202e"]}}`} {
		f.Add([]byte(v), []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, was, is []byte) {
		before, after := report.Difference(was, is)
		for _, s := range []string{report.Value(was), before, after} {
			if s == "" {
				t.Errorf("nothing is shown of %q", was)
			}
			if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || len([]rune(s)) > 400 {
				t.Errorf("shows %q", s)
			}
		}
	})
}
