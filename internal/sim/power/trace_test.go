package power_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/backstay-dev/backstay/internal/sim/image"
)

// calls are the system calls that change files, as strace names them.
const calls = "open,openat,creat,write,pwrite64,writev,pwritev,ftruncate,truncate,fallocate,fsync,fdatasync," +
	"rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,link,linkat," +
	"chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat,setxattr,lsetxattr,fsetxattr,removexattr,fremovexattr"

// tracer turns strace's lines into a record of what happened below root.
type tracer struct {
	root    string
	journal *image.Journal
	attrs   map[image.Node]image.Attr
	offsets map[string]int64  // of files written without an offset, by "pid fd"
	begun   map[string]string // what a thread's unfinished call began with
	umask   uint32
	deaf    func(path string) bool // whose syncs are left out
}

// newTracer begins with what lies below root now, all of it durable.
func newTracer(root string) (*tracer, error) {
	tr := &tracer{root: root, journal: image.New(), attrs: map[image.Node]image.Attr{}, offsets: map[string]int64{}, begun: map[string]string{}, umask: 0o022}
	nodes := map[string]image.Node{".": 0}
	files, err := read(root)
	if err != nil {
		return nil, err
	}
	return tr, walkSorted(files, func(rel string, f image.File) error {
		n := tr.journal.Start(nodes[filepath.Dir(rel)], filepath.Base(rel), f)
		nodes[rel], tr.attrs[n] = n, f.Attr
		return nil
	})
}

// left are paths that are in no record: what SQLite maps instead of writing it.
func left(rel string) bool { return strings.HasSuffix(rel, "-shm") }

// find is the directory and the name of an absolute path; ok is false outside root.
func (tr *tracer) find(path string) (in image.Node, name string, ok bool) {
	rel, err := filepath.Rel(tr.root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") || left(rel) {
		return 0, "", false
	}
	if rel == "." {
		return 0, "", true
	}
	parts := strings.Split(rel, "/")
	for _, p := range parts[:len(parts)-1] {
		if in, ok = tr.journal.Lookup(in, p); !ok {
			return 0, "", false
		}
	}
	return in, parts[len(parts)-1], true
}

func (tr *tracer) node(path string) (image.Node, bool) {
	in, name, ok := tr.find(path)
	if !ok || name == "" {
		return in, ok
	}
	return tr.journal.Lookup(in, name)
}

// read takes in all lines.
func (tr *tracer) read(r io.Reader) error {
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			if err := tr.line(line); err != nil {
				return fmt.Errorf("%w in %.300s", err, line)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var (
	callLine = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)
	begun    = regexp.MustCompile(`^(\d+) +(\w+\(.*?)[, ]*<unfinished \.\.\.>$`)
	resumed  = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	number   = regexp.MustCompile(`tv_sec=(-?\d+)[^,}]*, tv_nsec=(\d+)`)
)

func (tr *tracer) line(line string) error {
	if m := begun.FindStringSubmatch(line); m != nil {
		tr.begun[m[1]] = m[2]
		return nil
	}
	if m := resumed.FindStringSubmatch(line); m != nil {
		head := tr.begun[m[1]]
		if !strings.HasSuffix(head, "(") && !strings.HasPrefix(strings.TrimSpace(m[2]), ")") {
			head += ", "
		}
		line = m[1] + " " + head + strings.TrimLeft(m[2], " ,")
	}
	m := callLine.FindStringSubmatch(line)
	if m == nil {
		return nil // a signal, an exit
	}
	ret, err := strconv.ParseInt(m[4], 10, 64)
	if err != nil || ret < 0 {
		return err // what failed changed nothing
	}
	return tr.call(m[1], m[2], arguments(m[3]), ret)
}

// arguments splits what stands between a call's parentheses.
func arguments(text string) (out []string) {
	depth, start := 0, 0
	for i, c := range text {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, strings.TrimSpace(text[start:i]))
				start = i + 1
			}
		}
	}
	return append(out, strings.TrimSpace(text[start:]))
}

// decode is the bytes of "\x2f\x74…" or <\x2f\x74…>.
func decode(text string) string {
	i, j := strings.IndexAny(text, `"<`), strings.LastIndexAny(text, `">`)
	if i < 0 || j <= i {
		return ""
	}
	var out []byte
	for _, h := range strings.Split(text[i+1:j], `\x`)[1:] {
		b, err := strconv.ParseUint(h, 16, 8)
		if err != nil {
			return ""
		}
		out = append(out, byte(b))
	}
	return string(out)
}

// at is the path that a directory and a name argument mean.
func at(dir, name string) string {
	if p := decode(name); strings.HasPrefix(p, "/") {
		return p
	}
	return filepath.Join(decode(dir), decode(name))
}

func (tr *tracer) call(pid, name string, a []string, ret int64) error {
	cwd := "<>"
	switch name {
	case "open":
		return tr.opened(pid, decode(a[0]), a[1:], ret)
	case "openat":
		return tr.opened(pid, at(a[0], a[1]), a[2:], ret)
	case "write", "pwrite64":
		return tr.written(pid, name, a, ret)
	case "ftruncate", "truncate":
		if n, ok := tr.node(decode(a[0])); ok {
			size, err := strconv.ParseInt(a[1], 0, 64)
			tr.journal.Truncate(n, size)
			return err
		}
	case "fsync", "fdatasync":
		if n, ok := tr.node(decode(a[0])); ok && !tr.deaf(decode(a[0])) {
			tr.journal.Sync(n)
		}
	case "rename":
		return tr.renamed(decode(a[0]), decode(a[1]))
	case "renameat", "renameat2":
		return tr.renamed(at(a[0], a[1]), at(a[2], a[3]))
	case "unlink", "rmdir":
		return tr.removed(at(cwd, a[0]))
	case "unlinkat":
		return tr.removed(at(a[0], a[1]))
	case "mkdir":
		return tr.mkdir(at(cwd, a[0]), a[1])
	case "mkdirat":
		return tr.mkdir(at(a[0], a[1]), a[2])
	case "symlinkat":
		if in, base, ok := tr.find(at(a[1], a[2])); ok {
			tr.journal.Symlink(in, base, decode(a[0]), image.Attr{})
		}
	case "linkat":
		n, known := tr.node(at(a[0], a[1]))
		if in, base, ok := tr.find(at(a[2], a[3])); ok && known {
			tr.journal.Link(in, base, n)
		}
	case "fchmod", "chmod":
		return tr.chmod(decode(a[0]), a[1])
	case "fchmodat":
		return tr.chmod(at(a[0], a[1]), a[2])
	case "utimensat":
		return tr.timed(a)
	case "fchown", "fchownat", "chown", "lchown", "fsetxattr", "fremovexattr": // the workload has one owner and no attributes
	default:
		for _, arg := range a {
			if _, _, ok := tr.find(decode(arg)); ok && strings.HasPrefix(decode(arg), tr.root) {
				return fmt.Errorf("%s is not understood", name)
			}
		}
	}
	return nil
}

func (tr *tracer) opened(pid, path string, flags []string, fd int64) error {
	tr.offsets[fmt.Sprint(pid, " ", fd)] = 0
	in, base, ok := tr.find(path)
	if !ok {
		return nil
	}
	n, known := tr.journal.Lookup(in, base)
	switch {
	case strings.Contains(flags[0], "O_APPEND"):
		return errors.New("appending is not understood")
	case !known && strings.Contains(flags[0], "O_CREAT"):
		mode, err := strconv.ParseUint(flags[1], 8, 32)
		if err != nil {
			return err
		}
		attr := image.Attr{Mode: uint32(mode) &^ tr.umask}
		tr.attrs[tr.journal.Create(in, base, attr)] = attr
	case known && strings.Contains(flags[0], "O_TRUNC"):
		tr.journal.Truncate(n, 0)
	}
	return nil
}

func (tr *tracer) written(pid, name string, a []string, ret int64) error {
	n, ok := tr.node(decode(a[0]))
	if !ok {
		return nil
	}
	data := decode(a[1])
	if int64(len(data)) < ret {
		return errors.New("strace cut the data short")
	}
	fd, _, _ := strings.Cut(a[0], "<")
	_ = pid // descriptors are of the process; offsets are kept by node
	key := fmt.Sprint(n, " ", fd)
	off := tr.offsets[key]
	if name == "pwrite64" {
		var err error
		if off, err = strconv.ParseInt(a[3], 0, 64); err != nil {
			return err
		}
	} else {
		tr.offsets[key] += ret
	}
	tr.journal.Write(n, off, []byte(data[:ret]))
	return nil
}

func (tr *tracer) renamed(from, to string) error {
	in, base, ok := tr.find(from)
	toIn, toBase, toOK := tr.find(to)
	if ok != toOK {
		return errors.New("a rename across the border")
	}
	if ok {
		tr.journal.Rename(in, base, toIn, toBase)
	}
	return nil
}

func (tr *tracer) removed(path string) error {
	if in, base, ok := tr.find(path); ok {
		tr.journal.Remove(in, base)
	}
	return nil
}

func (tr *tracer) mkdir(path, mode string) error {
	in, base, ok := tr.find(path)
	if !ok {
		return nil
	}
	m, err := strconv.ParseUint(mode, 8, 32)
	attr := image.Attr{Mode: uint32(m) &^ tr.umask}
	tr.attrs[tr.journal.Mkdir(in, base, attr)] = attr
	return err
}

func (tr *tracer) chmod(path, mode string) error {
	n, ok := tr.node(path)
	if !ok {
		return nil
	}
	m, err := strconv.ParseUint(mode, 8, 32)
	attr := tr.attrs[n]
	attr.Mode = uint32(m)
	tr.setAttr(n, attr)
	return err
}

func (tr *tracer) timed(a []string) error {
	path := decode(a[0])
	if a[1] != "NULL" {
		path = at(a[0], a[1])
	}
	n, ok := tr.node(path)
	m := number.FindAllStringSubmatch(a[2], -1)
	if !ok || len(m) == 0 {
		return nil
	}
	last := m[len(m)-1]
	sec, err := strconv.ParseInt(last[1], 10, 64)
	nsec, err2 := strconv.ParseInt(last[2], 10, 64)
	attr := tr.attrs[n]
	attr.MTime = sec*1e9 + nsec
	tr.setAttr(n, attr)
	return errors.Join(err, err2)
}

func (tr *tracer) setAttr(n image.Node, attr image.Attr) {
	tr.attrs[n] = attr
	tr.journal.SetAttr(n, attr)
}

// read reads a tree.
func read(root string) (map[string]image.File, error) {
	out := map[string]image.File{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." || left(rel) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, _ := info.Sys().(*syscall.Stat_t)
		f := image.File{Attr: image.Attr{Mode: st.Mode & 0o7777, MTime: info.ModTime().UnixNano()}}
		switch {
		case info.IsDir():
			f.Type = image.Dir
		case info.Mode()&fs.ModeSymlink != 0:
			f.Type = image.Symlink
			f.Target, err = os.Readlink(path)
		default:
			f.Data, err = os.ReadFile(path)
		}
		out[rel] = f
		return err
	})
	return out, err
}
