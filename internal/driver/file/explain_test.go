package file

import (
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/tree"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	const key = backstay.Key("file:/etc/it's")
	frozen := func(change func(*body, *backstay.Step), entries map[string]tree.Entry) backstay.Step {
		b := body{V: bodyVersion, Path: "/etc/it's", View: viewSelf, Key: key}
		st := backstay.Step{ID: "s", Prepared: backstay.Prepared{Kind: "file", Summary: "write it"}}
		st.Want = backstay.Image{key: tree.State(entries)}
		change(&b, &st)
		st.Body = backstay.Canonical(b)
		return st
	}
	one := func(e tree.Entry) map[string]tree.Entry { return map[string]tree.Entry{"": e} }
	none := func(*body, *backstay.Step) {}
	tests := []struct {
		name     string
		step     backstay.Step
		do, undo string
	}{
		{"file", frozen(none, one(tree.Entry{Type: tree.File, Mode: "0640", UID: 33, GID: 7, SHA256: "abc"})), `install -m 0640 -o 33 -g 7 -- "$NEW" '/etc/it'\''s'`, "before-image"},
		{"symlink", frozen(none, one(tree.Entry{Type: tree.Symlink, Target: "a b"})), `ln -sfn -- 'a b' '/etc/it'\''s'`, "before-image"},
		{"absent", frozen(none, nil), `rm -rf -- '/etc/it'\''s'`, "before-image"},
		{"nothing before", frozen(func(_ *body, st *backstay.Step) {
			st.Before = map[backstay.Key]string{key: (backstay.ResourceState{}).Digest()}
		}, one(tree.Entry{Type: tree.File, Mode: "0640"})), "install", `rm -r -- '/etc/it'\''s'`},
		{"tree", frozen(func(b *body, _ *backstay.Step) { b.View = viewWhole }, map[string]tree.Entry{"": {Type: tree.Dir}, "a": {Type: tree.File}}), `cp -a -- "$NEW"/.`, "before-image"},
		{"secret", frozen(func(b *body, _ *backstay.Step) { b.Secret = &secretBody{} }, nil), "only Backstay writes", "before-image"},
		{"parents and validation", frozen(func(b *body, _ *backstay.Step) { b.Parents, b.Validate = []string{"/etc/a b"}, []string{"nginx", "-t"} }, one(tree.Entry{Type: tree.File})), "install -d -m 0755 '/etc/a b'", "before-image"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, err := (&Kind{}).Explain(tt.step)
			if err != nil {
				t.Fatal(err)
			}
			said := func(all []backstay.Command) string {
				var b strings.Builder
				for _, c := range all {
					b.WriteString(c.Note + "\n" + c.Line + "\n")
				}
				return b.String()
			}
			if got := said(e.Do); !strings.Contains(got, tt.do) {
				t.Errorf("do: got %s, want %s in it", got, tt.do)
			}
			if got := said(e.Undo); !strings.Contains(got, tt.undo) {
				t.Errorf("undo: got %s, want %s in it", got, tt.undo)
			}
			if len(e.Read) != 1 || !strings.Contains(e.Read[0].Line, "sha256sum") {
				t.Errorf("read: got %+v", e.Read)
			}
		})
	}
}
