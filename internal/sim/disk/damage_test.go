package disk_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/cli"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// backstay runs one command line in this process.
func (p place) backstay(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var text bytes.Buffer
	app := cli.App{
		Stdin: strings.NewReader(""), Stdout: &text, Stderr: &text,
		Environ: []string{"BACKSTAY_STATE=" + p.state, "HOME=" + p.dir, "PATH=" + os.Getenv("PATH")},
		Build:   cli.Build{Version: "test"}, Kinds: func() (cli.Kinds, error) { return all.New() }, Signals: make(chan os.Signal),
	}
	code = app.Main(context.WithoutCancel(t.Context()), args)
	return code, text.String()
}

// deployed is a place with one proven deployment.
func deployed(t *testing.T) place {
	t.Helper()
	return deployedAs(t, "")
}

// deployedAs is deployed with another spec.
func deployedAs(t *testing.T, spec string) place {
	t.Helper()
	dir := t.TempDir()
	p := place{dir: dir, world: filepath.Join(dir, "world"), state: filepath.Join(dir, "state")}
	p.stage(t, passing)
	if spec != "" {
		p.write(t, filepath.Join(dir, "backstay.yaml"), spec)
	}
	if code, out := p.deploy(t); code != 0 {
		t.Fatalf("deploy: %d\n%s", code, out)
	}
	return p
}

func (p place) deploy(t *testing.T) (int, string) {
	t.Helper()
	return p.backstay(t, "deploy", "-f", filepath.Join(p.dir, "backstay.yaml"), "--set", "WORLD="+p.world)
}

func (p place) ledger() string { return filepath.Join(p.state, sqlite.File) }

func (p place) read(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(p.ledger())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFlippedBits flips single bits of the ledger's file. What is then verified
// as good is the same log as before; what is not is said to be damaged; nothing
// panics; and a deployment never ends other than exactly.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	p := deployedAs(t, "backstay: v1\nrelease: small\nsteps:\n- file: {path: \"${WORLD}/app.conf\", content: \"version = 2\\n\"}\n- run: cat ${WORLD}/app.conf\n  undo: \"true\"\n")
	good := p.read(t)
	_, log := p.backstay(t, "audit", "log", "--json")
	rounds, found := 40, 0
	if full() {
		rounds = 600
	}
	records := occurrences(good, `{"v":1,"deployment":"`)
	if len(records) < 5 {
		t.Fatalf("%d records of the log found in the file: look for them in another way", len(records))
	}
	const seed = 20260101
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range rounds {
		// Every second one hits a record of the log, or what SQLite left of one
		// when it split a page; the rest anything, of which most is unused room.
		at, bit := rng.IntN(len(good)), byte(1)<<rng.IntN(8)
		if i%2 == 0 {
			at = records[rng.IntN(len(records))] + rng.IntN(100)
		}
		name := fmt.Sprintf("byte %d bit %#x", at, bit)
		bad := bytes.Clone(good)
		bad[at] ^= bit
		p.write(t, p.ledger(), string(bad))
		code, out := p.backstay(t, "audit", "verify")
		if code == 0 {
			if readCode, now := p.backstay(t, "audit", "log", "--json"); readCode == 0 && now != log {
				t.Errorf("%s: verified, but the log differs:\n%s", name, cmp.Diff(log, now))
			}
			continue
		}
		found++
		if code != 1 && code != 3 && code != 5 || strings.Contains(out, "goroutine") || strings.TrimSpace(out) == "" {
			t.Errorf("%s: audit verify exited with %d:\n%s", name, code, out)
		}
		for _, verb := range []string{"status", "history", "drift", "recover", "lock", "report"} {
			if code, out := p.backstay(t, verb); strings.Contains(out, "goroutine") {
				t.Errorf("%s: %s exited with %d:\n%s", name, verb, code, out)
			}
		}
	}
	if found < rounds/8 {
		t.Errorf("only %d of %d flipped bits were noticed by audit verify", found, rounds)
	}
}

// occurrences are the places of a text in data.
func occurrences(data []byte, text string) []int {
	var all []int
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte(text))
		if i < 0 {
			return all
		}
		all = append(all, at+i)
		at += i + len(text)
	}
}

// TestFlippedBeforeImage flips one bit of the kept content of a file. Taking the
// deployment back must never write that content: it is refused, undone or held,
// and says that the ledger is damaged.
func TestFlippedBeforeImage(t *testing.T) {
	t.Parallel()
	p := deployed(t)
	bad := p.read(t)
	at := bytes.Index(bad, []byte(strings.Repeat("1", 1000)))
	if at < 0 {
		t.Fatal("the before-image is not in the ledger as it is: look for it in another way")
	}
	bad[at+500] ^= 4
	p.write(t, p.ledger(), string(bad))
	code, out := p.backstay(t, "rollback", "--yes")
	if code == 0 || !strings.Contains(out, "damaged") {
		t.Errorf("rollback exited with %d:\n%s", code, out)
	}
	big, err := os.ReadFile(filepath.Join(p.world, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(big); got != strings.Repeat("1", 700_000) && got != strings.Repeat("2", 700_000) {
		t.Error("the damaged content was written")
	}
}

// TestDamagedLedger: a ledger that is cut, emptied, no database, or another's is
// said to be so, and no deployment is made from what cannot be read. (A whole
// check would read all of it: a deployment reads what it needs, and audit verify
// all.)
func TestDamagedLedger(t *testing.T) {
	t.Parallel()
	foreign := deployed(t)
	tests := []struct {
		name   string
		damage func(p place, good []byte) string
		// verify's exit code, and whether deploy must refuse.
		verify  int
		refuses bool
		says    string
	}{
		{"cut in the middle", func(_ place, good []byte) string { return string(good[:len(good)/2]) }, 0, true, "damaged|malformed|restore"},
		{"cut in a page", func(_ place, good []byte) string { return string(good[:len(good)-1000]) }, 0, false, ""},
		{"text", func(place, []byte) string { return strings.Repeat("this is no database ", 1000) }, 0, true, "damaged|not a database|restore"},
		{"header gone", func(_ place, good []byte) string { return strings.Repeat("\x00", 100) + string(good[100:]) }, 0, true, "damaged|not a database|restore"},
		{"middle zeroed", func(_ place, good []byte) string {
			third := len(good) / 3
			return string(good[:third]) + strings.Repeat("\x00", third) + string(good[2*third:])
		}, 0, false, ""},
		{"another's", func(place, []byte) string { return string(foreign.read(t)) }, 3, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := deployed(t)
			if code, out := p.backstay(t, "audit", "checkpoint", "-o", filepath.Join(p.dir, "kept")); code != 0 {
				t.Fatalf("checkpoint: %d %s", code, out)
			}
			p.write(t, p.ledger(), tt.damage(p, p.read(t)))
			code, out := p.backstay(t, "audit", "verify")
			if code == 0 || tt.verify != 0 && code != tt.verify || strings.Contains(out, "goroutine") {
				t.Errorf("audit verify exited with %d:\n%s", code, out)
			}
			if code, out := p.backstay(t, "audit", "verify", "--against", filepath.Join(p.dir, "kept")); code == 0 {
				t.Errorf("audit verify --against exited with %d:\n%s", code, out)
			}
			before := picture(t, p.world)
			p.write(t, filepath.Join(p.dir, "new/site/index.html"), "<h1>3</h1>")
			code, out = p.deploy(t)
			if !tt.refuses {
				// What it read was whole. It must end as it says, and what was
				// lost must not have become invisible by it.
				if code != 0 && code != 1 && code != 2 && code != 5 || strings.Contains(out, "goroutine") {
					t.Errorf("deploy exited with %d:\n%s", code, out)
				}
				if code, out := p.backstay(t, "audit", "verify", "--against", filepath.Join(p.dir, "kept")); code == 0 {
					t.Errorf("after a deployment, audit verify --against exited with %d:\n%s", code, out)
				}
				return
			}
			if code != 1 && code != 5 || !strings.Contains(out, "hint: ") {
				t.Errorf("deploy exited with %d:\n%s", code, out)
			}
			said := false
			for word := range strings.SplitSeq(tt.says, "|") {
				said = said || strings.Contains(out, word)
			}
			if !said {
				t.Errorf("deploy does not say what is wrong: %s", out)
			}
			if diff := cmp.Diff(before, picture(t, p.world)); diff != "" {
				t.Errorf("the world changed:\n%.1000s", diff)
			}
		})
	}
}

// TestEmptiedLedger: a ledger of no bytes is a new ledger to SQLite. What the
// deployment finds it then plans on, and a kept checkpoint shows the loss.
func TestEmptiedLedger(t *testing.T) {
	t.Parallel()
	p := deployed(t)
	kept := filepath.Join(p.dir, "kept")
	if code, out := p.backstay(t, "audit", "checkpoint", "-o", kept); code != 0 {
		t.Fatalf("checkpoint: %d %s", code, out)
	}
	p.write(t, p.ledger(), "")
	if code, out := p.backstay(t, "audit", "verify", "--against", kept); code == 0 {
		t.Errorf("audit verify --against a kept checkpoint exited with %d:\n%s", code, out)
	}
	if code, out := p.deploy(t); code != 5 || !strings.Contains(out, "missing or empty") {
		t.Errorf("deploy onto an emptied ledger exited with %d:\n%s", code, out)
	}
}

// TestNewerState: a ledger of a newer version is not touched by any verb.
func TestNewerState(t *testing.T) {
	t.Parallel()
	p := deployed(t)
	db, err := sql.Open("sqlite", p.ledger())
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), "UPDATE meta SET value = $1 WHERE key = 'schema_version'", fmt.Sprint(ledger.SchemaVersion+1))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	was := p.read(t)
	before := picture(t, p.world)
	for _, args := range [][]string{{"status"}, {"history"}, {"recover"}, {"rollback", "--yes"}, {"audit", "verify"}, {"drift"}, {"lock"}} {
		code, out := p.backstay(t, args...)
		if code != 5 || !strings.Contains(out, "schema version") || !strings.Contains(out, "hint: use the backstay version that wrote it, or a newer one") {
			t.Errorf("%v: exited with %d:\n%s", args, code, out)
		}
	}
	if code, out := p.deploy(t); code != 5 {
		t.Errorf("deploy: exited with %d:\n%s", code, out)
	}
	if !bytes.Equal(was, p.read(t)) {
		t.Error("the ledger of the newer version was written to")
	}
	if diff := cmp.Diff(before, picture(t, p.world)); diff != "" {
		t.Errorf("the world changed:\n%.1000s", diff)
	}
}
