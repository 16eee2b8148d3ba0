package report_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
)

// judged is a release whose new side is convicted by its errors at the second gate.
func judged() *story {
	s := newStory(step("gate-10", "gate", "go on when errors passed"), step("gate-50", "gate", "go on when errors passed"))
	s.add(0, backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: s.dep.PlanDigest})
	tell := func(gate, check string, weight int, verdict backstay.Verdict, odds, safe, low, high float64, canary uint64) {
		s.add(10*time.Second, backstay.EntryVerdict, gate, backstay.VerdictBody{Check: check, Phase: "gate", CheckResult: backstay.CheckResult{Verdict: verdict, Evidence: &backstay.Evidence{
			Metric: "error-rate", Odds: odds, FailAt: 1000, Part: 5, Safe: safe, PassAt: 20, Margin: "0.2 percentage points", Low: low, High: high,
			Canary: canary, Baseline: 9 * canary, Weight: weight,
		}}})
	}
	tell("gate-10", "errors", 10, backstay.Undecided, 1, 2, 0, 0, 100)
	tell("gate-10", "errors", 10, backstay.Undecided, 3, 9, 0.2, 8, 200)
	tell("gate-10", "latency", 10, backstay.Pass, 0.4, 1e9, 0.5, 1.1, 200)
	tell("gate-10", "errors", 10, backstay.Pass, 2, 25, 0.3, 4, 300)
	tell("gate-50", "errors", 50, backstay.Undecided, 90, 0.5, 0.9, 4, 600)
	tell("gate-50", "latency", 50, backstay.Pass, 0.4, 1e9, 0.5, 1.1, 600)
	tell("gate-50", "errors", 50, backstay.Fail, 2400, 0.01, 2.1, 6, 800)
	return s
}

// The page draws what the table says, in numbers alone.
func TestPlot(t *testing.T) {
	t.Parallel()
	html := render(t, timeline(t, judged()), rendering{}.as("html"))
	if n := strings.Count(html, `: evidence over time"`); n != 3 {
		t.Fatalf("%d plots, want errors, latency and both together", n)
	}
	_, plot, _ := strings.Cut(html, `aria-label="errors: evidence over time"`)
	plot, _, _ = strings.Cut(plot, "</figure>")
	curve := func(class string) [][2]float64 {
		t.Helper()
		m := regexp.MustCompile(`<path class="` + class + `" d="M([0-9.,LZ-]+)"`).FindStringSubmatch(plot)
		if m == nil {
			t.Fatalf("no curve %s in %s", class, plot)
		}
		var points [][2]float64
		for p := range strings.SplitSeq(strings.TrimSuffix(m[1], "Z"), "L") {
			x, y, _ := strings.Cut(p, ",")
			fx, err1 := strconv.ParseFloat(x, 64)
			fy, err2 := strconv.ParseFloat(y, 64)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			points = append(points, [2]float64{fx, fy})
		}
		return points
	}
	rule := func(class string) float64 {
		t.Helper()
		m := regexp.MustCompile(`<line class="` + class + `" x1="[0-9]+" y1="([0-9]+)"`).FindStringSubmatch(plot)
		if m == nil {
			t.Fatalf("no threshold %s", class)
		}
		y, _ := strconv.ParseFloat(m[1], 64)
		return y
	}
	worse, safe, share, between := curve("worse"), curve("safe"), curve("share"), curve("range")
	if len(worse) != 5 || len(safe) != 5 || len(between) != 10 || len(share) != 9 {
		t.Fatalf("%d, %d, %d and %d points", len(worse), len(safe), len(between), len(share))
	}
	// Up is less: only the last of worse is over its threshold, and the third of safe.
	for i, p := range worse {
		if (p[1] < rule("worse")) != (i == 4) {
			t.Errorf("worse %d is at %v, the threshold at %v", i, p, rule("worse"))
		}
	}
	for i, p := range safe {
		if (p[1] < rule("safe")) != (i == 2) {
			t.Errorf("safe %d is at %v, the threshold at %v", i, p, rule("safe"))
		}
	}
	// Ten times the odds are everywhere as far.
	decade := (worse[0][1] - worse[4][1]) / math.Log10(2400)
	if got := (worse[0][1] - worse[3][1]) / math.Log10(90); math.Abs(got-decade) > 0.5 {
		t.Errorf("a decade is %.1f and %.1f", decade, got)
	}
	// Points are 20 to 30 s apart, to scale.
	if a, b := worse[1][0]-worse[0][0], worse[2][0]-worse[1][0]; math.Abs(b-2*a) > 0.5 {
		t.Errorf("10 s are %.1f, 20 s are %.1f", a, b)
	}
	if between[0][1] >= between[9][1] || between[4][1] >= between[5][1] {
		t.Errorf("the range is %v", between)
	}
	if got := share[len(share)-1][1]; math.Abs(got-(share[0][1]-0.4*60)) > 0.5 {
		t.Errorf("from 10 %% at %v to 50 %% at %v", share[0], got)
	}
	wellFormed(t, html)
}

// as is the rendering of that name.
func (rendering) as(ext string) rendering {
	for _, how := range renderings() {
		if how.ext == ext {
			return how
		}
	}
	return rendering{}
}

// wellFormed reads every picture of a page as XML.
func wellFormed(t *testing.T, html string) {
	t.Helper()
	for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(html, -1) {
		dec := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("a picture is no XML: %v", err)
				break
			}
		}
	}
}

// The tables say it as well, in every format.
func TestComparedInWords(t *testing.T) {
	t.Parallel()
	r := timeline(t, judged())
	for _, ext := range []string{"txt", "md"} {
		got := strings.Join(strings.Fields(strings.NewReplacer("|", " ", `\`, "").Replace(render(t, r, rendering{}.as(ext)))), " ")
		for _, want := range []string{
			"How the two sides compared", "errors gate-10 10 % pass 2 : 1 of 1000 25 : 1 of 20 (0.2 percentage points) 0.3 to 4 300, 2700",
			"errors gate-50 50 % fail 2400 : 1 of 1000", "latency gate-50 50 % pass 0.4 : 1 of 1000 over a million : 1 of 20",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not say %q:\n%s", ext, want, got)
			}
		}
	}
}

// A day of evidence every ten seconds draws as many points as there is room for.
func TestPlotOfADay(t *testing.T) {
	t.Parallel()
	s := newStory(step("look", "gate", "look"))
	s.add(0, backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: s.dep.PlanDigest})
	for i := range 8640 {
		s.add(10*time.Second, backstay.EntryVerdict, "look", backstay.VerdictBody{Check: "errors", Phase: "gate", CheckResult: backstay.CheckResult{Reason: fmt.Sprint(i), Evidence: &backstay.Evidence{
			Odds: float64(i), FailAt: 1000, Safe: backstay.MaxOdds, PassAt: 20, Margin: "x", Canary: uint64(i + 1), Baseline: 5, Weight: 10,
		}}})
	}
	html := render(t, timeline(t, s), rendering{}.as("html"))
	if len(html) > 200<<10 {
		t.Errorf("the page has %d KiB", len(html)>>10)
	}
	wellFormed(t, html)
}
