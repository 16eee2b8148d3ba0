package disk_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
)

// peakMemory is the most memory that this process ever held, in KiB: VmHWM of
// proc_pid_status(5). It is 0 where the kernel does not tell.
func peakMemory() (kib int) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "VmHWM: %d kB", &kib); err == nil {
			return kib
		}
	}
	return 0
}

const (
	fileStep = `  - file: {path: "${WORLD}/big", content: "small\n"}
`
	touchStep = `  - run: echo small > ${WORLD}/big
    touches: ["${WORLD}/big"]
`
	// A million lines, by two commands of the step at once.
	linesStep = `  - run: |
      cd ${WORLD}
      yes 'a line that says nothing, printed again and again' | head -n 500000 &
      yes 'another line that says nothing, on standard error' | head -n 500000 >&2
      wait
    undo: "true"
`
	oneLineStep = `  - run: echo a line
    undo: "true"
`
	memorySpec = `backstay: v1
release: memory
version: "2"
steps:
%s  - name: last
    run: %s
    undo: "true"
`
)

// TestMemoryStaysFlat: what a step prints and how large a before-image is cost
// a bounded amount of memory, on the way forward and on the way back. The bound
// is on what comes on top of the same deployment of next to nothing.
func TestMemoryStaysFlat(t *testing.T) {
	t.Parallel()
	const (
		bound  = 128 << 10 // KiB; less than holding one of the files once
		size   = int64(160 << 20)
		larger = int64(300 << 20)
	)
	peak := func(t *testing.T, step, last string, size int64, want backstay.State) int {
		t.Helper()
		p := place{dir: t.TempDir()}
		p.world, p.state = filepath.Join(p.dir, "world"), filepath.Join(p.dir, "state")
		big := filepath.Join(p.world, "big")
		p.write(t, filepath.Join(p.dir, "backstay.yaml"), fmt.Sprintf(memorySpec, step, last))
		sparse(t, p, big, size)
		before := digest(t, big)
		out := p.run(t, "deploy", "")
		if !strings.Contains(out, "ended: "+string(want)) {
			t.Fatalf("want %s:\n%.2000s", want, out)
		}
		if after := digest(t, big); want == backstay.RolledBack && after != before {
			t.Errorf("the big file is not as before")
		}
		_, text, _ := strings.Cut(out, "peak: ")
		var kib int
		if _, err := fmt.Sscan(text, &kib); err != nil || kib == 0 {
			t.Skip("this kernel does not tell how much memory a process held")
		}
		t.Logf("peak %d MiB", kib>>10)
		return kib
	}
	base := peak(t, fileStep+touchStep+oneLineStep, failing, 1, backstay.RolledBack)
	for _, tt := range []struct { //nolint:paralleltest // one at a time: they need much room on the disk
		name, step, last string
		size             int64
		want             backstay.State
		always           bool // else only where everything is run
	}{
		{"a million lines", linesStep, passing, 1, backstay.Proven, true},
		{"a large file replaced and restored", fileStep, failing, size, backstay.RolledBack, false},
		{"a large touched file restored", touchStep, failing, size, backstay.RolledBack, true},
		{"a larger one", touchStep, failing, larger, backstay.RolledBack, false},
	} {
		if !tt.always && !full() {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			if got := peak(t, tt.step, tt.last, tt.size, tt.want) - base; got > bound {
				t.Errorf("it took %d MiB more than the same with next to nothing, want at most %d", got>>10, bound>>10)
			}
		})
	}
}

// sparse writes a file of a size that takes little room, with something at its
// beginning, in its middle and at its end.
func sparse(t *testing.T, p place, path string, size int64) {
	t.Helper()
	p.write(t, path, "")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, size / 2, size - 1} {
		if _, err := f.WriteAt([]byte{'x'}, at); err != nil {
			t.Fatal(err)
		}
	}
}

func digest(t *testing.T, path string) (sum [sha256.Size]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	h.Sum(sum[:0])
	return sum
}
