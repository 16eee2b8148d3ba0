package datadog_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/metric/datadog"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/driver/metric/sourcetest"
)

// world is a server that speaks the documented API, about what the suite served.
type world struct {
	*sourcetest.Tally
	server *httptest.Server
	began  time.Time
}

const (
	key         = "the-api-key"
	application = "the-application-key"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Tally: sourcetest.NewTally(time.Minute, 2*time.Minute)}
	w.began = w.Now()
	w.server = httptest.NewServer(http.HandlerFunc(w.answer))
	t.Cleanup(w.server.Close)
	return w
}

var (
	rolledUp = regexp.MustCompile(`^sum:(requests|errors)\{side:(blue|green)\}\.as_count\(\)\.rollup\(sum, (\d+)\)$`)
	failing  = "sum:errors{side:green}.as_count() / sum:requests{side:green}.as_count()"
)

func (w *world) answer(out http.ResponseWriter, r *http.Request) {
	if r.Header.Get("DD-API-KEY") != key || r.Header.Get("DD-APPLICATION-KEY") != application {
		out.WriteHeader(http.StatusForbidden)
		fmt.Fprint(out, `{"errors":["Forbidden"]}`)
		return
	}
	query := r.URL.Query().Get("query")
	from, errFrom := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
	until, errUntil := strconv.ParseInt(r.URL.Query().Get("to"), 10, 64)
	m := rolledUp.FindStringSubmatch(query)
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/api/v1/query" || errFrom != nil || errUntil != nil:
		out.WriteHeader(http.StatusNotFound)
	case query == failing:
		share := float64(w.Count("green", true, 0, 0)) / float64(w.Count("green", false, 0, 0))
		fmt.Fprintf(out, `{"status":"ok","series":[{"pointlist":[[%d.0,0.5],[%d.0,%v],[%d.0,null]]}]}`,
			(until-120)*1000, (until-60)*1000, share, until*1000)
	case m == nil:
		fmt.Fprint(out, `{"status":"ok","res_type":"time_series","series":[],"message":""}`)
	default:
		var points []string
		slice, _ := strconv.ParseInt(m[3], 10, 64)
		// Its answer is of whole intervals, and of none where nothing was counted.
		for at := from / slice * slice; at <= until; at += slice {
			if n := w.Count(m[2], m[1] == "errors", at*1000, (at+slice)*1000); n > 0 {
				points = append(points, fmt.Sprintf("[%d.0,%d.0]", at*1000, n))
			}
		}
		fmt.Fprintf(out, `{"status":"ok","series":[{"metric":%q,"interval":%d,"pointlist":[%s]}]}`, m[1], slice, strings.Join(points, ","))
	}
}

func (w *world) at(url string) signal.Source {
	s, err := datadog.New(datadog.Options{URL: url, Key: key, Application: application, Slice: w.Slice, Settle: w.Tally.Settle, Now: w.Now})
	if err != nil {
		panic(err)
	}
	return s
}

func (w *world) Source() signal.Source { return w.at(w.server.URL + "/") }

func (w *world) Ask(m signal.Metric) signal.Ask {
	return signal.Ask{
		Metric: m, Route: "shop", Canary: "green", Baseline: "blue", From: w.began,
		Total: "sum:requests{side:{side}}.as_count()", Bad: "sum:errors{side:{side}}.as_count()",
	}
}

func (w *world) Settle(t *testing.T) { t.Helper(); w.Settled(t) }

func (w *world) Restart(*testing.T) bool { return false }

func (w *world) Break(*testing.T) { w.server.Close() }

func (w *world) Questions() (known, unknown signal.Question) {
	return signal.Question{Query: strings.ReplaceAll(failing, "green", "{side}"), Canary: "green"}, signal.Question{Query: "sum:nobody.counts.this{*}"}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(t *testing.T) sourcetest.World { t.Helper(); return newWorld(t) })
}

// What goes wrong is told apart.
func TestAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	known, _ := w.Questions()
	sourcetest.Answers(t, map[string]sourcetest.Answer{
		"keys refused":      {Status: http.StatusForbidden, Body: `{"errors":["Forbidden"]}`, Want: "permanent"},
		"asked too often":   {Status: http.StatusTooManyRequests, Body: `{"errors":["Rate limit"]}`, Want: "transient"},
		"out of order":      {Status: http.StatusBadGateway, Body: "<html>", Want: "transient"},
		"wrong query":       {Status: http.StatusBadRequest, Body: `{"errors":["Error parsing query"]}`, Want: "permanent"},
		"wrong in a 200":    {Status: http.StatusOK, Body: `{"status":"error","error":"Rule 'x' didn't match"}`, Want: "permanent"},
		"a page":            {Status: http.StatusOK, Body: "<html>", Want: "transient"},
		"too much":          {Status: http.StatusOK, Body: strings.Repeat(" ", 9<<20), Want: "transient"},
		"sent elsewhere":    {Status: http.StatusFound, Body: "", Want: "permanent"},
		"several series":    {Status: http.StatusOK, Body: `{"status":"ok","series":[{"pointlist":[]},{"pointlist":[]}]}`, Want: "no data"},
		"nothing but nulls": {Status: http.StatusOK, Body: `{"status":"ok","series":[{"pointlist":[[1,null],[null,2]]}]}`, Want: "no data"},
	}, w.server.URL+"/api/v1/query", w.at, known, key, application)
}

// A side that reports nothing for a slice takes it away from the other.
func TestOneSideIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Serve(t, "blue", 5, 0)
	w.Serve(t, "green", 3, 0)
	w.Settle(t)
	w.Serve(t, "blue", 7, 0)
	w.Settle(t)
	b, err := w.Source().Signals(t.Context(), w.Ask(signal.Errors))
	if err != nil || len(b.Signals) != 2 || b.Signals[0].Good != 3 || b.Signals[1].Good != 5 || b.Lost == "" {
		t.Errorf("%+v, %v", b, err)
	}
}
