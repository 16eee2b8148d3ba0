package image_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/sim/image"
)

// pictures are the distinct images of a record, as text, sorted.
func pictures(j *image.Journal, b image.Bounds) []string {
	seen := map[string]bool{}
	for _, i := range j.Images(b) {
		var text []string
		files := i.Files()
		for _, p := range slices.Sorted(maps.Keys(files)) {
			f := files[p]
			switch f.Type {
			case image.Regular:
				text = append(text, fmt.Sprintf("%s=%s", p, f.Data))
			case image.Dir:
				text = append(text, p+"/")
			case image.Symlink:
				text = append(text, p+"->"+f.Target)
			}
		}
		seen[strings.Join(text, " ")] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func TestImages(t *testing.T) {
	t.Parallel()
	old := image.File{Data: []byte("old")}
	for _, tt := range []struct {
		name   string
		do     func(*image.Journal)
		bounds image.Bounds
		want   []string
	}{
		{"replaced without a sync", func(j *image.Journal) {
			j.Start(0, "f", old)
			n := j.Create(0, "t", image.Attr{})
			j.Write(n, 0, []byte("new"))
			j.Rename(0, "t", 0, "f")
		}, image.Bounds{}, []string{"f=", "f=new", "f=old", "f=old t=", "f=old t=new"}},
		{"replaced with a sync of the file alone", func(j *image.Journal) {
			j.Start(0, "f", old)
			n := j.Create(0, "t", image.Attr{})
			j.Write(n, 0, []byte("new"))
			j.Sync(n)
			j.Rename(0, "t", 0, "f")
		}, image.Bounds{From: 3}, []string{"f=new", "f=old", "f=old t=new"}},
		{"replaced and both synced", func(j *image.Journal) {
			j.Start(0, "f", old)
			n := j.Create(0, "t", image.Attr{})
			j.Write(n, 0, []byte("new"))
			j.Sync(n)
			j.Rename(0, "t", 0, "f")
			j.Sync(0)
		}, image.Bounds{From: 5}, []string{"f=new"}},
		{"two writes in any order", func(j *image.Journal) {
			n := j.Start(0, "f", old)
			j.Write(n, 0, []byte("A"))
			j.Write(n, 1, []byte("B"))
		}, image.Bounds{Reorder: true}, []string{"f=ABd", "f=Ald", "f=oBd", "f=old"}},
		{"torn at sectors", func(j *image.Journal) {
			n := j.Start(0, "f", image.File{})
			j.Write(n, 510, []byte("abcd"))
		}, image.Bounds{}, []string{"f=", "f=" + strings.Repeat("\x00", 510) + "ab", "f=" + strings.Repeat("\x00", 510) + "abcd"}},
		{"a cut that was not synced", func(j *image.Journal) {
			n := j.Start(0, "f", old)
			j.Truncate(n, 1)
		}, image.Bounds{}, []string{"f=o", "f=old"}},
		{"a new directory and a file in it", func(j *image.Journal) {
			d := j.Mkdir(0, "d", image.Attr{})
			j.Sync(j.Create(d, "f", image.Attr{}))
			j.Sync(0)
		}, image.Bounds{From: 4}, []string{"d/", "d/ d/f="}},
		{"between directories both names may stand", func(j *image.Journal) {
			d := j.Start(0, "d", image.File{Type: image.Dir})
			j.Start(0, "f", old)
			j.Rename(0, "f", d, "g")
		}, image.Bounds{From: 2}, []string{"d/", "d/ d/g=old", "d/ d/g=old f=old", "d/ f=old"}},
		{"a symlink goes with its directory", func(j *image.Journal) {
			j.Symlink(0, "l", "there", image.Attr{})
			j.Sync(0)
		}, image.Bounds{}, []string{"", "l->there"}},
		{"a removed name comes back", func(j *image.Journal) {
			j.Start(0, "f", old)
			j.Remove(0, "f")
		}, image.Bounds{}, []string{"", "f=old"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j := image.New()
			tt.do(j)
			if diff := cmp.Diff(tt.want, pictures(j, tt.bounds)); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPoint: what an image must hold is what was promised at its newest point.
func TestPoint(t *testing.T) {
	t.Parallel()
	j := image.New()
	n := j.Start(0, "f", image.File{})
	j.Write(n, 0, []byte("a"))
	j.Sync(n)
	j.Write(n, 1, []byte("b"))
	for _, i := range j.Images(image.Bounds{}) {
		want := map[string][2]int{"": {0, 1}, "a": {1, 3}, "ab": {3, 3}}[string(i.Files()["f"].Data)]
		if got := [2]int{i.First, i.Point}; got != want {
			t.Errorf("%s: points %v, want %v", i.Name, got, want)
		}
	}
}
