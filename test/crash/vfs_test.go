package crash_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/backstay-dev/backstay/internal/sim/image"
)

// disk is a file system below SQLite: the operating system's, without syncs, so
// that it is quick. It may record what happens and it may fail.
type disk struct {
	mu      sync.Mutex
	journal *image.Journal   // nil: nothing is recorded
	changed func(point int)  // called before and after each recorded operation
	fail    func(call) error // nil: nothing fails
	// unsynced are the files whose sync failed once. The kernel has forgotten
	// what it could not write: a later sync of them says nothing.
	unsynced map[string]bool
	// synchronous replaces what the store asks for; "" leaves it.
	synchronous string
}

// call is one call of SQLite to its file system.
type call string

// The calls that can fail.
const (
	callOpen, callRead, callWrite, callTruncate call = "open", "read", "write", "truncate"
	callSync, callDelete, callLock              call = "sync", "delete", "lock"
)

var _ vfs.VFSFilename = (*disk)(nil)

func (d *disk) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	return vfs.Find("os").Open(name, flags)
}

func (d *disk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if err := d.try(callOpen); err != nil {
		return nil, flags, err
	}
	_, err := os.Lstat(name.String())
	created := errors.Is(err, fs.ErrNotExist)
	f, got, err := vfsutil.WrapOpenFilename(vfs.Find("os"), name, flags)
	if err != nil {
		return nil, got, err
	}
	if name.String() == "" {
		return f, got, nil // a temporary file: gone with the process
	}
	base := filepath.Base(name.String())
	d.record(func(j *image.Journal) {
		if created {
			j.Create(0, base, image.Attr{Mode: 0o600})
		}
	}, created)
	// SQLite syncs the directory with the first sync of a journal that it may have made.
	const journals = vfs.OPEN_WAL | vfs.OPEN_MAIN_JOURNAL | vfs.OPEN_SUPER_JOURNAL
	return &recorded{File: f, disk: d, name: base, syncDir: flags&vfs.OPEN_CREATE != 0 && flags&journals != 0}, got, nil
}

func (d *disk) Delete(name string, syncDir bool) error {
	if err := d.try(callDelete); err != nil {
		return err
	}
	if err := vfs.Find("os").Delete(name, false); err != nil {
		return err
	}
	d.record(func(j *image.Journal) { j.Remove(0, filepath.Base(name)) }, true)
	if syncDir {
		d.record(func(j *image.Journal) { j.Sync(0) }, true)
	}
	return nil
}

func (*disk) Access(name string, flags vfs.AccessFlag) (bool, error) {
	return vfs.Find("os").Access(name, flags)
}

func (*disk) FullPathname(name string) (string, error) { return vfs.Find("os").FullPathname(name) }

func (d *disk) record(do func(*image.Journal), really bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.journal == nil || !really {
		return
	}
	if d.changed != nil {
		d.changed(d.journal.Len())
		defer func() { d.changed(d.journal.Len()) }()
	}
	do(d.journal)
}

func (d *disk) try(c call) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		return nil
	}
	return d.fail(c)
}

// recorded is one open file. It hides what would bypass the record: memory maps
// and batches that the file system makes atomic.
type recorded struct {
	vfs.File
	disk    *disk
	name    string
	syncDir bool
}

var (
	_ vfs.FileSharedMemory = (*recorded)(nil)
	_ vfs.FileLockState    = (*recorded)(nil)
)

func (f *recorded) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }

func (f *recorded) LockState() vfs.LockLevel { return vfsutil.WrapLockState(f.File) }

func (f *recorded) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return f.File.DeviceCharacteristics() &^ vfs.IOCAP_BATCH_ATOMIC
}

func (f *recorded) node(j *image.Journal) image.Node {
	n, ok := j.Lookup(0, f.name)
	if !ok {
		panic("a file without a name is written: " + f.name)
	}
	return n
}

func (f *recorded) ReadAt(p []byte, off int64) (int, error) {
	if err := f.disk.try(callRead); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *recorded) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.try(callWrite); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	f.disk.record(func(j *image.Journal) { j.Write(f.node(j), off, p[:n]) }, n > 0)
	return n, err
}

func (f *recorded) Truncate(size int64) error {
	if err := f.disk.try(callTruncate); err != nil {
		return err
	}
	if err := f.File.Truncate(size); err != nil {
		return err
	}
	f.disk.record(func(j *image.Journal) { j.Truncate(f.node(j), size) }, true)
	return nil
}

func (f *recorded) Sync(vfs.SyncFlag) error {
	if err := f.disk.try(callSync); err != nil {
		f.disk.mu.Lock()
		defer f.disk.mu.Unlock()
		if f.disk.unsynced == nil {
			f.disk.unsynced = map[string]bool{}
		}
		f.disk.unsynced[f.name] = true
		return err
	}
	f.disk.record(func(j *image.Journal) { j.Sync(f.node(j)) }, !f.disk.unsynced[f.name])
	if f.syncDir {
		f.syncDir = false
		f.disk.record(func(j *image.Journal) { j.Sync(0) }, true)
	}
	return nil
}

func (f *recorded) Lock(level vfs.LockLevel) error {
	if err := f.disk.try(callLock); err != nil {
		return err
	}
	return f.File.Lock(level)
}
