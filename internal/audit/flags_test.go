package audit_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

const aFlag = backstay.Key("flag:new-checkout")

func flagState(text string) backstay.ResourceState {
	if text == "" {
		return backstay.ResourceState{}
	}
	return backstay.ResourceState{Parts: map[string]json.RawMessage{"definition": backstay.Canonical(text)}}
}

// flagEntry is a change as the store writes it.
func flagEntry(version int64, act, before, after string) backstay.Entry {
	ref := func(text string) backstay.ImageRef {
		image := backstay.Image{aFlag: flagState(text)}
		return backstay.ImageRef{Digest: image.Digest(), Inline: image}
	}
	return backstay.Entry{V: 1, Kind: backstay.EntryFlag, At: start(), Actor: ann(), Body: backstay.Canonical(backstay.FlagBody{
		Key: aFlag, Version: version, Act: act, Before: ref(before), After: ref(after),
	})}
}

func TestFlagsAreAChain(t *testing.T) {
	t.Parallel()
	row := func(version int64, text string) []backstay.Flag {
		return []backstay.Flag{{Key: aFlag, Version: version, State: flagState(text)}}
	}
	made, on := flagEntry(1, "set", "", "off"), flagEntry(2, "set", "off", "on")
	forged := flagEntry(2, "set", "off", "on")
	forged.Body = backstay.Canonical(json.RawMessage(strings.Replace(string(forged.Body), `"definition":"on"`, `"definition":"ON"`, 1)))
	for name, c := range map[string]struct {
		entries []backstay.Entry
		rows    []backstay.Flag
		want    string
	}{
		"whole":             {[]backstay.Entry{made, on, flagEntry(2, "ask", "on", "off"), flagEntry(3, "kill", "on", "off")}, row(3, "off"), ""},
		"made again":        {[]backstay.Entry{made, flagEntry(2, "remove", "off", ""), flagEntry(3, "set", "", "on")}, row(3, "on"), ""},
		"one is left out":   {[]backstay.Entry{made, flagEntry(3, "kill", "on", "off")}, row(3, "off"), "got version 3 by \"kill\" after version 1"},
		"begins elsewhere":  {[]backstay.Entry{made, flagEntry(2, "kill", "on", "off")}, row(2, "off"), "begins with another state than version 1 ended with"},
		"asked and done":    {[]backstay.Entry{made, flagEntry(1, "ask", "off", "on"), flagEntry(2, "kill", "on", "off")}, row(2, "off"), "begins with another state"},
		"forged inside":     {[]backstay.Entry{made, forged}, row(2, "on"), "does not hash to what the entry says"},
		"never made":        {[]backstay.Entry{on}, row(2, "on"), "got version 2 by \"set\" after version 0"},
		"the row is ahead":  {[]backstay.Entry{made}, row(2, "on"), "has version 2, the records lead to 1"},
		"the row differs":   {[]backstay.Entry{made, on}, row(2, "off"), "gives something else than its record of version 2 says"},
		"the row is gone":   {[]backstay.Entry{made}, nil, "records speak of flag:new-checkout, but it is not there"},
		"nobody wrote it":   {nil, row(1, "on"), "is there, but no record speaks of it"},
		"cannot be read":    {[]backstay.Entry{{V: 1, Kind: backstay.EntryFlag, At: start(), Body: backstay.Canonical("text")}}, nil, "cannot be read"},
		"of a newer format": {[]backstay.Entry{{V: 2, Kind: backstay.EntryFlag, At: start(), Body: backstay.Canonical("text")}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			for _, e := range c.entries {
				b.put(e)
			}
			b.flags = c.rows
			r := verify(t, b, options(t))
			if r.OK != (c.want == "") || (c.want != "" && !strings.Contains(text(t, r), c.want)) {
				t.Errorf("want %q, got\n%s", c.want, text(t, r))
			}
		})
	}
}

// TestTamperedFlags tampers with the flags of a real ledger file.
func TestTamperedFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), dir, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := ledger.FlagWriter{Actor: *ann()}
	for i, state := range []string{"off", "on", strings.Repeat("large ", 20_000), "", "on"} {
		c := backstay.FlagChange{Key: aFlag, Version: int64(i), To: flagState(state), Act: "set"}
		if _, err := s.ChangeFlags(t.Context(), w, c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.AskFlag(t.Context(), w, backstay.FlagChange{Key: aFlag, Version: 5, To: flagState("off"), Act: "kill"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, sqlite.File))
	if err != nil {
		t.Fatal(err)
	}
	for statement, want := range map[string]string{
		"": "",
		`UPDATE flag SET state = replace(state, '"on"', '"off"')`: "gives something else",
		`UPDATE flag SET version = 4`:                             "has version 4",
		`UPDATE flag SET key = 'flag:old-checkout'`:               "no record speaks of it",
	} {
		path := filepath.Join(t.TempDir(), sqlite.File)
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if statement != "" {
			change(t, path, []string{statement})
		}
		src, err := sqlite.OpenReadOnly(t.Context(), path, ledger.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := verify(t, src, options(t))
		if r.OK != (want == "") || (want != "" && !strings.Contains(fmt.Sprint(text(t, r)), want)) {
			t.Errorf("%s: want %q, got\n%s", statement, want, text(t, r))
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
