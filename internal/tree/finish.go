package tree

import "github.com/backstay-dev/backstay/internal/durable"

// finishDir gives a wanted directory its attributes.
func (r *restorer) finishDir(part string) error {
	want, wanted := r.want[part]
	if !wanted || want.Type != Dir {
		return nil
	}
	return r.inside(part, func(dir *durable.Dir) error {
		st, err := dir.Lstat(".")
		if err != nil {
			return err
		}
		now := entryOf(st)
		if now.Xattrs, err = readXattrs(dir.FD()); err != nil {
			return err
		}
		if want.same(now) {
			return nil
		}
		if err := r.leased(); err != nil {
			return err
		}
		if err := setAttributes(dir.FD(), want); err != nil {
			return err
		}
		return setMTime(dir, ".", want)
	})
}

// finishTouched gives a directory that is no named part the time back that the
// restore of its parts changed: the wanted one when it again holds what it
// should, else the one it had.
func (r *restorer) finishTouched(part string) error {
	err := r.inside(part, func(dir *durable.Dir) error {
		at := r.touched[part]
		want := r.want[part]
		if want.Type == Dir && want.MTime != "" && r.complete(dir, part) {
			var err error
			if at, err = want.mtime(); err != nil {
				return err
			}
		}
		st, err := dir.Lstat(".")
		if err != nil || mtimeOf(st).Equal(at) {
			return err
		}
		if err := r.leased(); err != nil {
			return err
		}
		return dir.SetMTime(".", at)
	})
	if gone(err) {
		return nil
	}
	return err
}

// complete reports whether the directory holds exactly the names of the target.
func (r *restorer) complete(dir *durable.Dir, part string) bool {
	wanted := 0
	for p := range r.want {
		if p != "" && parentPart(p) == part {
			wanted++
		}
	}
	names, err := dir.Names(wanted + 100)
	if err != nil {
		return false
	}
	found := 0
	for _, name := range names {
		if durable.IsTemp(name) {
			continue
		}
		if _, ok := r.want[joinPart(part, Escape(name))]; !ok {
			return false
		}
		found++
	}
	return found == wanted
}
