package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// layer is one overlaid file system: where it is, and open directories of what
// was written and of what lies below.
type layer struct {
	At    string `json:"at"`
	Upper int    `json:"upper"`
	Lower int    `json:"lower"`
}

// becomeInside makes the view and executes this binary in it. It runs as the
// first process of its namespaces, and returns only with an error.
func becomeInside() error {
	runtime.LockOSThread() // capabilities are a thread's, and the one that executes keeps them
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	scratch := os.Getenv(envScratch)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount("backstay", scratch, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount scratch space: %w", err)
	}
	root := filepath.Join(scratch, "root")
	layers, hidden, err := overlayAll(scratch, root)
	if err != nil {
		return err
	}
	if err := furnish(root); err != nil {
		return err
	}
	if err := moveInto(root); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := drop(); err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, envStage) })
	l, err := json.Marshal(layers)
	if err != nil {
		return err
	}
	h, err := json.Marshal(hidden)
	if err != nil {
		return err
	}
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &since); err != nil {
		return err
	}
	env = append(env, envStage+"="+inside, envLayers+"="+string(l), envHidden+"="+string(h), envSince+"="+strconv.FormatInt(since.Nano(), 10))
	if doors := os.Getenv(envDoors); doors != "" {
		env = append(env, envDoors+"="+doors)
	}
	return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, os.Args, env))
}

// overlayAll lays a writable layer over every real file system. What cannot be
// overlaid is hidden.
func overlayAll(scratch, root string) (layers []layer, hidden []string, err error) {
	mounts, err := realMounts(scratch)
	if err != nil {
		return nil, nil, err
	}
	for i, m := range mounts {
		work := filepath.Join(scratch, fmt.Sprint(i))
		l, err := overlay(m, work, filepath.Join(root, m))
		switch {
		case err == nil:
			layers = append(layers, l)
		case m == "/":
			return nil, nil, fmt.Errorf("overlay /: %w", err)
		default:
			hidden = append(hidden, m)
		}
	}
	return layers, hidden, nil
}

// overlay mounts a view of what lies at from on at, whose writes go to work.
func overlay(from, work, at string) (layer, error) {
	lower, upper, inner := filepath.Join(work, "lower"), filepath.Join(work, "upper"), filepath.Join(work, "work")
	for _, d := range []string{lower, upper, inner} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return layer{}, err
		}
	}
	st, err := os.Stat(from)
	if err != nil {
		return layer{}, err
	}
	if !st.IsDir() {
		return layer{}, fmt.Errorf("%s is no directory", from)
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return layer{}, err
	}
	if err := copyAttr(from, upper); err != nil {
		return layer{}, err
	}
	// The view's lower side is a clone that cannot be written, so that not even a
	// mistake of ours reaches the host through it.
	if err := unix.Mount(from, lower, "", unix.MS_BIND, ""); err != nil {
		return layer{}, err
	}
	if err := unix.Mount("", lower, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return layer{}, err
	}
	if err := unix.Mount("backstay", at, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+inner+",redirect_dir=on,metacopy=off,index=off"); err != nil {
		return layer{}, err
	}
	l := layer{At: from}
	if l.Upper, err = unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return layer{}, err
	}
	if l.Lower, err = unix.Open(lower, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return layer{}, err
	}
	return l, nil
}

// copyAttr gives the top of a layer mode, owner and times of what it covers.
func copyAttr(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// furnish mounts what programs expect besides files: a proc of the sandbox's own
// processes, whose switches of the kernel cannot be written, and harmless devices.
func furnish(root string) error {
	proc := filepath.Join(root, "proc")
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	for _, name := range []string{"sys", "irq", "bus", "fs", "sysrq-trigger"} {
		at := filepath.Join(proc, name)
		if _, err := os.Stat(at); err != nil {
			continue
		}
		if err := unix.Mount(at, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("protect %s: %w", at, err)
		}
		if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("protect %s: %w", at, err)
		}
	}
	dev := filepath.Join(root, "dev")
	if err := unix.Mount("backstay", dev, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		at := filepath.Join(dev, name)
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("give /dev/%s: %w", name, err)
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dev, "shm"), 0o1777)
}

// moveInto makes root the root, and lets go of the host's.
func moveInto(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("move into the view: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's files: %w", err)
	}
	return os.Chdir("/")
}

// loopback brings up the one network that there is.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}

// drop gives up, for good, what could reach out of the view: mounting, making
// devices, opening files by handle, the kernel's clock, modules and memory.
func drop() error {
	for _, c := range []uintptr{
		unix.CAP_SYS_ADMIN, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME, unix.CAP_SYS_TTY_CONFIG,
		unix.CAP_MKNOD, unix.CAP_DAC_READ_SEARCH, unix.CAP_SYSLOG, unix.CAP_WAKE_ALARM, unix.CAP_BPF, unix.CAP_PERFMON,
		unix.CAP_CHECKPOINT_RESTORE, unix.CAP_AUDIT_CONTROL, unix.CAP_AUDIT_WRITE, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE, unix.CAP_SYS_PACCT,
	} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // that: the kernel is older than the capability
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	return nil
}
