package newrelic_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/metric/newrelic"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/driver/metric/sourcetest"
)

// world is a server that speaks NerdGraph as documented, about what the suite
// served.
type world struct {
	*sourcetest.Tally
	server *httptest.Server
	began  time.Time
}

const (
	key     = "NRAK-THE-USER-KEY"
	account = 4711
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
	series  = regexp.MustCompile(`^SELECT count\(\*\) FROM Request WHERE side = '(blue|green)'( AND error)? SINCE (\d+) UNTIL (\d+) TIMESERIES (\d+) seconds$`)
	failing = "SELECT percentage(count(*), WHERE error) / 100 FROM Request WHERE side = 'green' SINCE 60 seconds ago"
)

func (w *world) answer(out http.ResponseWriter, r *http.Request) {
	var asked struct {
		Query     string `json:"query"`
		Variables struct {
			Account int    `json:"account"`
			NRQL    string `json:"nrql"`
		} `json:"variables"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.URL.Path != "/graphql" || r.Method != http.MethodPost ||
		asked.Variables.Account != account || !strings.Contains(asked.Query, "nrql(query: $nrql") {
		out.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.Header.Get("Api-Key") != key {
		out.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(out, `{"errors":[{"message":"Invalid API key","extensions":{"error_code":"BAD_API_KEY"}}]}`)
		return
	}
	var rows []string
	m := series.FindStringSubmatch(asked.Variables.NRQL)
	switch {
	case asked.Variables.NRQL == failing:
		rows = append(rows, fmt.Sprintf(`{"percentage":%v}`, float64(w.Count("green", true, 0, 0))/float64(w.Count("green", false, 0, 0))))
	case m != nil:
		from, _ := strconv.ParseInt(m[3], 10, 64)
		until, _ := strconv.ParseInt(m[4], 10, 64)
		slice, _ := strconv.ParseInt(m[5], 10, 64)
		for at := from; at < until; at += slice * 1000 {
			rows = append(rows, fmt.Sprintf(`{"beginTimeSeconds":%d,"endTimeSeconds":%d,"count":%d}`,
				at/1000, at/1000+slice, w.Count(m[1], m[2] != "", at, at+slice*1000)))
		}
	}
	fmt.Fprintf(out, `{"data":{"actor":{"account":{"nrql":{"results":[%s]}}}}}`, strings.Join(rows, ","))
}

func (w *world) at(url string) signal.Source {
	s, err := newrelic.New(newrelic.Options{URL: url, Account: account, Key: key, Slice: w.Slice, Settle: w.Tally.Settle, Now: w.Now})
	if err != nil {
		panic(err)
	}
	return s
}

func (w *world) Source() signal.Source { return w.at(w.server.URL + "/graphql") }

func (w *world) Ask(m signal.Metric) signal.Ask {
	const total = "SELECT count(*) FROM Request WHERE side = '{side}'"
	return signal.Ask{Metric: m, Route: "shop", Canary: "green", Baseline: "blue", From: w.began, Total: total, Bad: total + " AND error"}
}

func (w *world) Settle(t *testing.T) { t.Helper(); w.Settled(t) }

func (w *world) Restart(*testing.T) bool { return false }

func (w *world) Break(*testing.T) { w.server.Close() }

func (w *world) Questions() (known, unknown signal.Question) {
	return signal.Question{Query: strings.NewReplacer("green", "{side}", "60 seconds", "{window}").Replace(failing), Canary: "green", Window: time.Minute},
		signal.Question{Query: "SELECT latest(nobody.counts.this) FROM Metric"}
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
		"key refused":     {Status: http.StatusUnauthorized, Body: `{"errors":[{"message":"Invalid API key"}]}`, Want: "permanent"},
		"asked too often": {Status: http.StatusTooManyRequests, Body: `{}`, Want: "transient"},
		"out of order":    {Status: http.StatusBadGateway, Body: "<html>", Want: "transient"},
		"wrong query":     {Status: http.StatusOK, Body: `{"errors":[{"message":"NRQL Syntax Error: Error at line 1 position 1"}]}`, Want: "permanent"},
		"a page":          {Status: http.StatusOK, Body: "<html>", Want: "transient"},
		"sent elsewhere":  {Status: http.StatusFound, Body: "", Want: "permanent"},
		"busy in a 200":   {Status: http.StatusOK, Body: `{"errors":[{"message":"try later","extensions":{"errorClass":"TOO_MANY_REQUESTS"}}]}`, Want: "transient"},
		"no row":          {Status: http.StatusOK, Body: `{"data":{"actor":{"account":{"nrql":{"results":[]}}}}}`, Want: "no data"},
		"no number":       {Status: http.StatusOK, Body: `{"data":{"actor":{"account":{"nrql":{"results":[{"percentage":null}]}}}}}`, Want: "no data"},
		"two numbers":     {Status: http.StatusOK, Body: `{"data":{"actor":{"account":{"nrql":{"results":[{"a":1,"b":2}]}}}}}`, Want: "no data"},
	}, w.server.URL+"/graphql", w.at, known, key)
}
