package plan

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

// previewed is a plan with one of everything that a preview can show.
func previewed() Preview {
	const minute = backstay.Duration(time.Minute)
	p := &Plan{
		Format: Format, Release: "shop", Version: "v2", Environment: "production", Within: minute,
		Inputs:    []Input{{Name: "VERSION", Value: "v2", Source: "set"}},
		Artifacts: []backstay.Artifact{{Name: "web", SHA256: "9f86d081884c7d659a2feaa0c55ad015", Size: 12}},
		Stages:    []Stage{{Name: "switch"}},
		Steps: []backstay.Step{
			{ID: "conf", Seq: 1, Prepared: backstay.Prepared{
				Kind: "file", Class: backstay.Exact, HasUndo: true, Summary: "write /etc/shop.conf", UndoSummary: "put /etc/shop.conf back", Keys: []backstay.Key{"file:/etc/shop.conf"},
			}},
			{ID: "warm", Seq: 2, Prepared: backstay.Prepared{
				Kind: "run", Class: backstay.Equivalent, Modulo: []string{"timestamps"}, HasUndo: true, Fence: backstay.Leased, Window: minute,
				Summary: "run ./warm\x1b[2J.sh", UndoSummary: "run ./cool.sh", Warnings: []string{"it is slow"},
			}},
			{ID: "go", Seq: 3, Stage: "switch", Prepared: backstay.Prepared{Kind: "approve", Hold: &backstay.Hold{Count: 1}, Summary: "wait for 1 of sre"}},
			{ID: "mail", Seq: 4, Stage: "switch", Pivot: true, Prepared: backstay.Prepared{
				Kind: "run", Class: backstay.Irreversible, Irreversible: "mails are sent", Summary: "run ./mail.sh",
			}},
		},
		Verify: []Check{
			{ID: "health", Within: minute, Every: backstay.Duration(time.Second), Prepared: backstay.Prepared{Summary: "GET /healthz"}},
			{ID: "smoke", Prepared: backstay.Prepared{Summary: "run ./smoke.sh"}},
		},
		Bake: Bake{For: 10 * minute, Every: backstay.Duration(5 * time.Second), Failures: 3},
	}
	finish(p)
	return Preview{
		Plan:  p,
		Drift: []Drift{{Key: "file:/etc/shop.conf", Deployment: "shop#3", Parts: []string{"", "mode"}}, {Key: "run:warm", Deployment: "shop#3", Unreadable: "no answer"}},
		Held: []HeldLock{{
			Key: "file:/etc/shop.conf", Deployment: "id", Name: "other#9", State: backstay.Holding, Owner: "driven by process 7 on h, for 5m0s", Age: 5 * time.Minute,
		}},
		Undo:    map[string]time.Duration{"conf": 2 * time.Minute},
		Command: "backstay deploy --plan " + p.Digest()[:16],
		Clean:   func(s string) string { return strings.ReplaceAll(s, "\x1b", "") },
	}
}

func TestPreviewText(t *testing.T) {
	t.Parallel()
	v := previewed()
	var b strings.Builder
	if err := v.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	digest := v.Plan.Digest()
	want := `shop v2 → production: 4 steps, 1 resource
  input VERSION=v2 (from set)
  artifact web sha256:9f86d081884c (12 bytes)

Steps, and how each is taken back
  1  conf  write /etc/shop.conf
           undo: put /etc/shop.conf back [exact]                    ≈ 2m0s
  2  warm  run ./warm[2J.sh
           undo: run ./cool.sh [equivalent, but for timestamps]     not measured yet
  stage switch
  3  go                           wait for 1 of sre
  4  mail (point of no return)    run ./mail.sh
                                  undo: none: mails are sent

Then verify
  health  GET /healthz    every 1s until it passes, at most 1m0s
  smoke   run ./smoke.sh  once

Then bake for 10m0s: every 5s, 3 failing rounds in a row roll it back

Promise  irreversible: step mail cannot be undone; what comes after it is driven forward
Undo     2m0s measured, 1 step not measured yet; MORE than rollback.within 1m0s: going forward will be vetoed
No undo  step mail: mails are sent
Leased   step warm: a process that lost its lease could still act for 1m0s

Drift    file:/etc/shop.conf differs from what deployment shop#3 left (itself, mode)
Drift    run:warm cannot be read: no answer
Locks    1 resource needed, 1 held by somebody else
  file:/etc/shop.conf is held by other#9 (holding) for 5m0s, driven by process 7 on h, for 5m0s
    look: backstay status other#9    wait: add --wait 10m    end it: backstay rollback other#9
Warning  warm: it is slow

Plan    sha256:` + digest + `
Run it  backstay deploy --plan ` + digest[:16] + "\n"
	if diff := cmp.Diff(squeezed(want), squeezed(b.String())); diff != "" {
		t.Errorf("preview (-want +got):\n%s", diff)
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("a control character of the user's reached the text")
	}
}

// squeezed makes runs of blanks inside lines one, so that the test is about
// words and indentation, not about column widths.
func squeezed(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		body := strings.TrimLeft(l, " ")
		indent := min(len(l)-len(body), 5)
		out = append(out, strings.Repeat(" ", indent)+strings.Join(strings.Fields(body), " "))
	}
	return out
}

func TestPreviewJSON(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(Preview{Plan: &Plan{Format: Format, Release: "shop"}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Format   string          `json:"format"`
		Digest   string          `json:"digest"`
		Plan     Plan            `json:"plan"`
		Drift    json.RawMessage `json:"drift"`
		Held     json.RawMessage `json:"held_locks"`
		Warnings json.RawMessage `json:"warnings"`
		Undo     UndoTime        `json:"undo_time"`
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Format != PreviewFormat || got.Plan.Release != "shop" || len(got.Digest) != 64 || !got.Undo.Fits {
		t.Errorf("got %+v", got)
	}
	for name, list := range map[string]json.RawMessage{"drift": got.Drift, "held_locks": got.Held, "warnings": got.Warnings} {
		if string(list) != "[]" {
			t.Errorf("%s is %s, want []", name, list)
		}
	}
}

func TestUndoTimeCountsWhatCanBeUndone(t *testing.T) {
	t.Parallel()
	v := previewed()
	got := v.UndoTime()
	want := UndoTime{Measured: 2 * time.Minute, Unmeasured: []string{"warm"}, Within: backstay.Duration(time.Minute)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
