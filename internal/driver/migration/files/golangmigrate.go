package files

import "strings"

// golangMigrate reads pairs VERSION_name.up.sql and VERSION_name.down.sql. Its
// files run as they are: what needs a transaction says so itself, which
// PostgreSQL gives to the statements of one file anyway.
func (r *reader) golangMigrate(all []file) {
	downs := map[string]file{}
	ups := map[string]bool{}
	for _, f := range all {
		version, _, direction, ok := r.pairName(f)
		if !ok || direction != "down" {
			continue
		}
		if other, twice := downs[version]; twice {
			r.refuse(f.name, 0, "keep one of them", "it has the version of %s", other.name)
		}
		downs[version] = f
	}
	for _, f := range all {
		version, name, direction, ok := splitPair(f.name)
		if !ok || direction != "up" {
			continue
		}
		o, _ := number(version)
		key := o.text()
		ups[key] = true
		m := Migration{Version: key, Name: name, Up: whole(f), order: o}
		if d, has := downs[key]; has {
			script := whole(d)
			m.Down = &script
		}
		r.add(m)
	}
	for version, f := range downs {
		if !ups[version] {
			r.refuse(f.name, 0, "add its .up.sql, or remove it", "it takes back version %s, which has no .up.sql", version)
		}
	}
}

// pairName reads a file's name and refuses one that the tool would skip.
func (r *reader) pairName(f file) (version, name, direction string, ok bool) {
	version, name, direction, ok = splitPair(f.name)
	if !ok {
		r.refuse(f.name, 0, "such as 000001_create_users.up.sql", "it is not named as golang-migrate wants it: VERSION_name.up.sql or VERSION_name.down.sql; the tool would skip it")
		return "", "", "", false
	}
	o, _ := number(version)
	return o.text(), name, direction, true
}

func splitPair(file string) (version, name, direction string, ok bool) {
	base := strings.TrimSuffix(file, ".sql")
	for _, d := range []string{"up", "down"} {
		rest, is := strings.CutSuffix(base, "."+d)
		if !is {
			continue
		}
		version, name, ok = strings.Cut(rest, "_")
		_, digits := number(version)
		return version, name, d, ok && digits
	}
	return "", "", "", false
}
