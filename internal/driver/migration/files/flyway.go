package files

import (
	"strings"
)

// flywayName reports whether a file is named as a versioned, undo or
// repeatable migration of Flyway.
func flywayName(name string) bool {
	base, isSQL := strings.CutSuffix(name, ".sql")
	if !isSQL || base == "" {
		return false
	}
	prefix, rest := base[:1], base[1:]
	version, _, ok := strings.Cut(rest, "__")
	switch prefix {
	case "V", "U":
		_, dot := dotted(strings.ReplaceAll(version, "_", "."))
		return ok && dot
	case "R":
		return ok && version == ""
	}
	return false
}

// flyway reads V1__name.sql with U1__name.sql.
func (r *reader) flyway(all []file) {
	downs := map[string]file{}
	confs := map[string]file{}
	for _, f := range all {
		switch {
		case strings.HasSuffix(f.name, ".conf"):
			confs[strings.TrimSuffix(f.name, ".conf")] = f
		case !flywayName(f.name):
			r.refuse(f.name, 0, "such as V1__create_users.sql and U1__create_users.sql", "it is not named as a migration of Flyway; callbacks are not run by Backstay")
		case strings.HasPrefix(f.name, "R__"):
			r.refuse(f.name, 0, "make it a versioned migration, with an undo", "a repeatable migration has no version and no undo")
		case strings.HasPrefix(f.name, "U"):
			version, _ := flywayVersion(f.name)
			o, _ := dotted(version)
			if other, twice := downs[o.text()]; twice {
				r.refuse(f.name, 0, "keep one of them", "it has the version of %s", other.name)
			}
			downs[o.text()] = f
		}
		if strings.HasSuffix(f.name, ".sql") && strings.Contains(f.text, "${") {
			r.refuse(f.name, lineOf(f.text, "${"), "write the value", "a placeholder (${…}) takes its text from Flyway's settings, so what would run is not pinned by the file")
		}
	}
	for _, f := range all {
		if !flywayName(f.name) || !strings.HasPrefix(f.name, "V") {
			continue
		}
		version, name := flywayVersion(f.name)
		o, _ := dotted(version)
		key := o.text()
		m := Migration{Version: version, Name: name, Up: whole(f), order: o}
		m.Up.NoTransaction = r.flywayConf(confs, f.name)
		if d, has := downs[key]; has {
			script := whole(d)
			script.NoTransaction = r.flywayConf(confs, d.name)
			m.Down = &script
			delete(downs, key)
		}
		r.add(m)
	}
	for _, f := range downs {
		r.refuse(f.name, 0, "add its V file, or remove it", "it takes back a version that has no V file")
	}
	for name := range confs {
		r.refuse(name+".conf", 0, "", "there is no %s beside it", name)
	}
}

// flywayConf reads the settings beside a file: whether it runs outside of a
// transaction. The settings are taken out of confs.
func (r *reader) flywayConf(confs map[string]file, name string) (none bool) {
	f, ok := confs[name]
	delete(confs, name)
	if !ok {
		return false
	}
	n := 0
	for line := range strings.Lines(f.text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		if strings.TrimSpace(key) != "executeInTransaction" || (value != "true" && value != "false") {
			r.refuse(f.name, n, "executeInTransaction=false", "%q is a setting that Backstay does not honour", key)
			continue
		}
		none = value == "false"
	}
	return none
}

// flywayVersion is the version with dots, and the description, of a file's name.
func flywayVersion(name string) (version, description string) {
	version, description, _ = strings.Cut(stem(name)[1:], "__")
	return strings.ReplaceAll(version, "_", "."), strings.ReplaceAll(description, "_", " ")
}

func lineOf(text, part string) int {
	before, _, _ := strings.Cut(text, part)
	return 1 + strings.Count(before, "\n")
}
